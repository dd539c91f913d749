from written_runs import good_losses, results_of, write_run

__all__ = ["good_losses", "results_of", "write_run"]
