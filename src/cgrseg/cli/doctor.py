"""`cgrseg doctor`: what this machine has for cgrseg, what it lacks, and what to install for what."""

from __future__ import annotations


def doctor(*, device: str = "auto") -> int:
    """Show versions, devices, runtimes and optional parts, and label a photo as a test.

    What is missing stands with the command that brings it. The exit code is 1 where something is broken; an
    optional part that is not installed breaks nothing. Paste the output into a bug report.

    Args:
        device: where the test runs: auto, cpu, cuda or cuda:N
    """
    from collections.abc import Callable

    from cgrseg.measure import environment as machine

    sections: dict[str, Callable[[], list[machine.Finding]]] = {
        "versions": machine.versions,
        "devices": machine.devices,
        "runtimes": machine.runtimes,
        "optional parts": machine.extras,
        "weights": lambda: [machine.hub(), machine.self_test(device)],
    }
    broken = []
    for title, look in sections.items():
        findings = look()
        width = max(len(finding.name) for finding in findings)
        print(f"{title}:")
        for finding in findings:
            mark = " " if finding.works else "!"
            print(f" {mark} {finding.name:<{width}}  {finding.state}")
            if finding.cure:
                print(f"   {'':<{width}}  -> {finding.cure}")
        broken += [finding.name for finding in findings if not finding.works]
        print(flush=True)
    print(f"broken: {', '.join(broken)}" if broken else "all is well")
    return 1 if broken else 0
