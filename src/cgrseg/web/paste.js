// A picture that is pasted anywhere on the page (Ctrl+V) goes into the photo input of the open tab.
() => document.addEventListener("paste", (event) => {
  const inputs = [...document.querySelectorAll(".cgr-photo input[type=file]")];
  const input = inputs.find((each) => each.closest(".cgr-photo").checkVisibility());
  const picture = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
  const text = event.target.closest("input, textarea") && event.clipboardData.types.includes("text/plain");
  if (!input || !picture || text) return;
  const pasted = new DataTransfer();
  pasted.items.add(picture);
  input.files = pasted.files;
  input.dispatchEvent(new Event("change"));
  event.preventDefault();
})
