// An image that is pasted (Ctrl+V) or dropped anywhere on the page goes into the photo input of the open tab. Images for
// which Gradio has no setting get an alternative text.
() => {
  const nameImages = () => {
    for (const image of document.querySelectorAll("img:not([alt]), img[alt='']"))
      image.alt = image.closest("#examples") ? "Example photo" : "Photo with its labels";
  };
  new MutationObserver(nameImages).observe(document.body, { childList: true, subtree: true });
  nameImages();
  const input = () => {
    const inputs = [...document.querySelectorAll(".cgr-photo input[type=file]")];
    return inputs.find((each) => each.closest(".cgr-photo").checkVisibility());
  };
  const take = (event, files) => {
    const target = input(), image = [...files].find((file) => file.type.startsWith("image/"));
    if (!target || !image) return;
    const transfer = new DataTransfer();
    transfer.items.add(image);
    target.files = transfer.files;
    target.dispatchEvent(new Event("change"));
    event.preventDefault();
  };
  document.addEventListener("paste", (event) => {
    const text = event.target.closest("input, textarea") && event.clipboardData.types.includes("text/plain");
    if (!text) take(event, event.clipboardData.files);
  });
  const handled = (event) => event.defaultPrevented || event.target.closest(".cgr-photo, #clip"); // by Gradio
  document.addEventListener("dragover", (event) => handled(event) || event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (handled(event)) return;
    event.preventDefault(); // otherwise the browser leaves the page to show the file
    take(event, event.dataTransfer.files);
  });
}
