"""`cgrseg app`: a page in the browser that labels photos, the camera and videos."""

from __future__ import annotations

from cgrseg._process import share_cores


def app(
    *,
    weights: str | None = None,
    device: str = "auto",
    short_side: int | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = False,
) -> None:
    """Open a page for photos, camera and videos; needs the extra [app].

    Drop, paste or photograph a picture, and see its classes, their shares and the confidence; download overlay,
    mask and JSON; label a video; lay two weights beside each other. Photos stay on this machine.

    Args:
        weights: a weights file or name, or several joined by commas to choose from; default: those that come
            with cgrseg
        device: auto, cpu, cuda or cuda:N
        short_side: pixels of the shorter side that the network sees; default: what the weights say
        host: address to listen on; 0.0.0.0 lets other machines in
        port: port to listen on; default: the first free one from 7860
        browser: open the page in the browser
    """
    share_cores()
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ValueError('the page needs Gradio: pip install "cgrseg[app]"') from error

    from cgrseg.web import launch, make_page
    from cgrseg.web.choices import Choices
    from cgrseg.weights.load import bundled

    names = [name.strip() for name in weights.split(",") if name.strip()] if weights else bundled()
    if not names:
        raise ValueError("there are no weights to offer: add --weights FILE")
    choices = Choices(names, device=device, short_side=short_side)
    launch(make_page(choices), host=host, port=port, browser=browser)
