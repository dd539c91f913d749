"""Programs of several forms, each with own options: `hf-ddpm figures FIGURE ...`."""

from __future__ import annotations

from collections.abc import Mapping

from hf_ddpm.commandline.names import nearest


def form_list(forms: Mapping[str, type]) -> str:
    """Names of the forms and what they do, one line each; the options class of each says it in its first line."""
    width = max(map(len, forms))
    return "\n".join(f"  {name:{width}}  {(kind.__doc__ or '').splitlines()[0]}" for name, kind in forms.items())


def check_form(name: str | None, forms: Mapping[str, type], what: str) -> str:
    """The name of a form if there is one; else a `ValueError`. `what` a form is, such as "figure"."""
    if name in forms:
        return str(name)
    near = " or ".join(nearest(name or "", forms))
    hint = f"; did you mean {near}?" if near else ""
    got = f"no {what} is named" if name is None else f"unknown {what} {name!r}"
    raise ValueError(f"{got}: give one of {', '.join(forms)}, followed by its options{hint}")
