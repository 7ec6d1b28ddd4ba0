"""`featurewatch demo`, step by step."""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.rule import Rule

from monitor.cli.common import console, default_policies, default_zoo, home, resolve_model
from monitor.cli.demo.hook_points import hook_points_needed
from monitor.cli.demo.processes import running
from monitor.cli.demo.prompts import PROMPTS
from monitor.cli.demo.report import generations_table, is_flagged, tally
from monitor.cli.demo.servers import Setting, free_port, sidecar_ready, start_sidecar, start_vllm, vllm_ready
from monitor.cli.demo.traffic import Answer, send_all
from monitor.cli.demo.watch import SidecarView
from monitor.cli.render import alert_line, render_generation
from monitor.v1 import generations_pb2

_START_SECONDS = 600.0
# Its traffic is made for this one; columns of all the others would hide what it shows.
_POLICY = "harmful-intent.yaml"


def demo(
    model: Annotated[str, typer.Option(help="Chat model: alias, Hugging Face folder or id.")] = "smollm2",
    policies: Annotated[
        Path | None, typer.Option(help="Policy file or folder. Default: policies/harmful-intent.yaml of the checkout.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Answer tokens per request.")] = 40,
    compiled: Annotated[
        bool, typer.Option(help="Serve with torch.compile (two more minutes to start on a CPU).")
    ] = False,
    keep: Annotated[bool, typer.Option(help="Leave vLLM and the sidecar running until Ctrl-C.")] = False,
) -> None:
    """Serve a chat model with the tap and the sidecar, send it traffic, show what was flagged.

    Logs, alerts and audit store go to demo/ in the cache and replace those of the last run. Exits with 1 if a request
    failed or no alert came through.
    """
    path = resolve_model(model)
    policies = policies or default_policies() / _POLICY
    zoo = default_zoo()
    hook_points = hook_points_needed(policies, zoo)
    # Only now: a mistake on the command line must not cost the results of the last run.
    folder = home() / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="featurewatch-demo-") as sockets:
        setting = Setting(
            model=path,
            served_name=Path(path).name,
            target=f"unix:{sockets}/sidecar.sock",
            folder=folder,
            policies=policies,
            zoo=zoo,
            hook_points=hook_points,
            compiled=compiled,
            port=free_port(),
        )
        if not _run(setting, max_tokens, keep):
            raise typer.Exit(1)


def _run(setting: Setting, max_tokens: int, keep: bool) -> bool:
    """The whole demo; True when every request succeeded and at least one alert came through."""
    started = time.monotonic()
    with running(start_sidecar(setting)) as sidecar, console.status("Starting the sidecar ...") as status:
        vllm = start_vllm(setting)
        with running(vllm):
            sidecar.wait_until(lambda: sidecar_ready(setting.target), 60, lambda _: None)
            with SidecarView(setting.target, lambda alert: console.print(alert_line(alert))) as view:
                _say_policies(view)
                status.update(f"Starting vLLM with the tap at {', '.join(setting.hook_points)} ...")
                vllm.wait_until(
                    lambda: vllm_ready(setting.port) and view.tap_connected(),
                    _START_SECONDS,
                    lambda line: status.update(f"Starting vLLM ... [dim]{_plain(line)}[/dim]"),
                )
                console.print(
                    f"vLLM serves {setting.served_name}; the tap is connected ({time.monotonic() - started:.0f} s)"
                )
                status.stop()
                answers, summaries = _serve(setting, view, max_tokens)
                console.print(generations_table(answers, summaries))
                for line in tally(answers, summaries):
                    console.print(f"  {line}")
                _show_one(view, answers, summaries)
                good = _judge(view, answers, summaries)
                console.print(f"Finished in {time.monotonic() - started:.0f} s.")
                _how_to_go_on(setting, keep)
                if keep:
                    _wait_for_interrupt()
                return good


def _say_policies(view: SidecarView) -> None:
    for policy in view.policies().policies:
        rules = ", ".join(policy.rules)
        console.print(f"Policy [bold]{policy.name}[/bold] revision {policy.revision}: rules {rules}", highlight=False)


def _serve(
    setting: Setting, view: SidecarView, max_tokens: int
) -> tuple[list[Answer], dict[str, generations_pb2.GenerationSummary]]:
    console.print(Rule(f"{len(PROMPTS)} chat requests at once; alerts as they happen", align="left"))
    begun = time.monotonic()
    answers = send_all(
        PROMPTS,
        base_url=f"http://127.0.0.1:{setting.port}/v1",
        model=setting.served_name,
        max_tokens=max_tokens,
    )
    ids = [answer.external_id for answer in answers if not answer.error]
    summaries = view.ended_generations(ids, 15)
    tokens = sum(summary.output_tokens for summary in summaries.values())
    console.print(f"{len(ids)} answers, {tokens} tokens in {time.monotonic() - begun:.1f} s\n")
    return answers, summaries


def _show_one(
    view: SidecarView, answers: list[Answer], summaries: dict[str, generations_pb2.GenerationSummary]
) -> None:
    flagged = [answer for answer in answers if is_flagged(summaries.get(answer.external_id))]
    if not flagged:
        return
    # A hit says more than a false alarm, where there is one.
    chosen = next((answer for answer in flagged if answer.prompt.kind == "harmful"), flagged[0])
    summary = summaries[chosen.external_id]
    console.print(Rule(f"featurewatch audit show {summary.generation_id}", align="left"))
    console.print(render_generation(view.generation(summary.generation_id, 15)))


def _judge(view: SidecarView, answers: list[Answer], summaries: dict[str, generations_pb2.GenerationSummary]) -> bool:
    failed = [answer for answer in answers if answer.error]
    unseen = [answer for answer in answers if not answer.error and answer.external_id not in summaries]
    if failed:
        console.print(f"[bold red]{len(failed)} requests failed.[/bold red]")
    if unseen:
        console.print(f"[bold red]{len(unseen)} requests never reached the sidecar.[/bold red]")
    if not view.alerts:
        console.print("[bold red]No alert came through.[/bold red]")
    return bool(view.alerts) and not failed and not unseen


def _how_to_go_on(setting: Setting, keep: bool) -> None:
    store = shlex.quote(str(setting.folder / "audit.sqlite"))
    console.print(Rule("How to go on", align="left"))
    lines = [
        f"featurewatch audit list --store {store}     # every flagged generation",
        f"featurewatch audit show ID --store {store}",
        f"less {shlex.quote(str(setting.folder / 'alerts.jsonl'))}     # the alerts as JSON lines",
        f"featurewatch policy check {shlex.quote(str(setting.policies))}     # change a policy, check it, run again",
        "featurewatch demo --keep     # leave the servers up and send your own prompts",
    ]
    if keep:
        lines[-1:] = [
            f"curl http://127.0.0.1:{setting.port}/v1/chat/completions -H 'Content-Type: application/json' \\",
            f"""  -d '{{"model": "{setting.served_name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'""",
            f"featurewatch alerts watch --sidecar {setting.target}",
        ]
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)


def _wait_for_interrupt() -> None:
    console.print("Running until Ctrl-C.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("Stopping.")


def _plain(line: str) -> str:
    """A log line that fits beside the spinner; brackets would be read as markup."""
    return line.replace("[", "(").replace("]", ")")[-100:]
