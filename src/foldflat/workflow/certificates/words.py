"""A certificate in plain words."""

from typing import Any

__all__ = ["in_words", "search_in_words"]


def in_words(certificate: dict[str, Any]) -> str:
    """Return a certificate as a paragraph: what was found, what it promises, and what it does not cover."""
    n, about = certificate["examples"], certificate["data"]
    confidence = f"{100 * certificate['confidence']:.4g} %"
    where = " ".join(part for part in (about.get("task"), f"({about['split']})", about.get("collection")) if part)
    repeated = ""
    if about.get("repeated"):
        repeated = (
            f" {about['repeated']:,} that repeat another did not count: this is about different examples, however "
            "often each is met."
        )
    head = (
        f"The {certificate['risk']} against {certificate['original']['name']} on {where} is {certificate['mean']:.2%} "
        f"on {n:,} examples, at most {certificate['bound']:.2%} with {confidence} confidence.{repeated}"
    )
    if not certificate["promised"]:
        more = certificate["examples_needed"]
        way = "the mean itself is not below it" if more is None else f"about {more:,} examples like these would do"
        return f"{head} That is not below the limit of {certificate['limit']:.2%}: {way}."
    reused = certificate["earlier_uses"]
    price = f" The examples had been used {reused} times before, which the bound pays for." if reused else ""
    more = certificate["examples_for_half"]
    half = f" Half of that limit would take about {more:,} examples like these." if more and more > n else ""
    return (
        f"{head} So it is below {certificate['limit']:.2%}, a statement that is wrong for at most "
        f"{100 * (1 - certificate['confidence']):.4g} % of samples of independent examples.{price}{half} "
        "It does not cover examples of another kind, nor the model after it is trained or changed further."
    )


def search_in_words(found: dict[str, Any]) -> str:
    """Say what a search came to, with the paragraph of its certificate."""
    names, tested, words = found["candidates"], found["tested"], found["certificate"]["words"]
    if found["chosen"] is None:
        listed = ", ".join(one["name"] for one in tested)
        return f"None of {len(names)} candidates can be promised; tested: {listed}. {words}"
    order = [one["name"] for one in tested]
    smaller_ones = tested[order.index(found["chosen"]) + 1 :]
    failed = next((one for one in smaller_ones if not one["promised"]), None)
    smaller = "no smaller one is among them"
    if failed is not None:
        more = found["examples_for_next"]
        way = f"; about {more:,} examples like these would do" if more else ""
        part = failed["examples"] < found["certificate"]["examples"]
        where = f" on {failed['examples']:,} examples, where its test was given up," if part else ""
        smaller = (
            f"the next smaller, {failed['name']}, measures {failed['mean']:.2%}{where} and cannot be promised{way}"
        )
    return f"Chosen: {found['chosen']}, of {len(names)} candidates; {smaller}. {words}"
