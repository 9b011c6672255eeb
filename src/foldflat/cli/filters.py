"""Commands for the filters of convolutional networks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from foldflat.cli.promises import print_search
from foldflat.cli.terminal import app, out, print_json, progress, reports_errors
from foldflat.filters.recipe import FilterRecipe
from foldflat.options import (
    AsJson,
    Network,
    Output,
    Overwrite,
    refuse_without_promise,
    takes_filter_recipe,
    takes_promise,
)
from foldflat.report import latency_in_words, pruning_scores, pruning_table, pruning_verdict

__all__ = ["prune"]


@app.command()
@reports_errors
@takes_filter_recipe
@takes_promise
def prune(
    network: Network,
    output: Output,
    recipe: FilterRecipe,
    promise: Any,
    data: Annotated[str, typer.Option(help="Folder or hub name of labelled images.")],
    weights: Annotated[
        Path | None, typer.Option(help=".safetensors with the weights of a network that a function builds.")
    ] = None,
    train_split: Annotated[str, typer.Option(help="Split to calibrate and retrain on.")] = "train",
    split: Annotated[str, typer.Option(help="Split to score on.")] = "test",
    images: Annotated[int, typer.Option(help="Images to calibrate with.")] = 200,
    image_size: Annotated[int | None, typer.Option(help="Side to resize images to.")] = None,
    rounds: Annotated[int, typer.Option(help="Prune and retrain so many times.")] = 1,
    steps: Annotated[int, typer.Option(help="Retraining steps of each round; 0 for none.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Peak of the one cycle.")] = 0.02,
    batch_size: Annotated[int, typer.Option(help="Images in a step.")] = 128,
    bf16: Annotated[bool, typer.Option("--bf16", help="Retrain in bfloat16 where it is safe.")] = False,
    distil: Annotated[bool, typer.Option("--distil", help="Retrain against the original's outputs.")] = False,
    plan_examples: Annotated[
        int | None,
        typer.Option(
            help="Images to hold out of the training split, which choose what --max-drop certifies. Default 2000."
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Remove filters from a convolutional network, retrain it if asked, and write a complete folder.

    With --max-drop the smallest network is searched, from --keep (then 0.98) downwards, that can be promised to lose at
    most so much on --split; exit code 1 if none can.

    Example: `foldflat prune nets:build --weights net.safetensors --data images --keep 0.5 --steps 200 -o smaller`
    """
    from foldflat.evaluate import RetrainingSettings
    from foldflat.workflow.pruning import PruningRun, prune_folder

    settings = None
    if steps > 0:
        settings = RetrainingSettings(
            seed=recipe.seed, max_steps=steps, learning_rate=learning_rate, batch_size=batch_size, bf16=bf16
        )
    run = PruningRun(
        data=data,
        train_split=train_split,
        split=split,
        images=images,
        image_size=image_size,
        rounds=rounds,
        retraining=settings,
        distil=distil,
    )
    if promise is not None:
        from foldflat.workflow.certificates.pruning import prune_certified

        with progress(as_json) as watch:
            found = prune_certified(
                network,
                output,
                recipe,
                run,
                promise,
                weights=weights,
                plan_examples=2000 if plan_examples is None else plan_examples,
                overwrite=overwrite,
                progress=False,
                watch=watch,
            )
        print_search(found, output, as_json)
        return
    refuse_without_promise({"--plan-examples": plan_examples})
    with progress(as_json) as watch:
        result = prune_folder(
            network, output, recipe, run, weights=weights, overwrite=overwrite, progress=not as_json, watch=watch
        )
    if as_json:
        print_json({"output": str(output), **result.report})
        return
    out.print(pruning_table(result.report))
    out.print(pruning_verdict(result.report), highlight=False)
    out.print(pruning_scores(result.report))
    out.print(latency_in_words(result.report), highlight=False)
    out.print(f"Written to {output}; load it after `import foldflat`.")
