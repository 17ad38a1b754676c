// A track without a cover answers nothing: the note behind the picture stays, and no sign of a broken picture.
const drop = (image) => image.closest(".ix-cover") && image.remove();
document.addEventListener("error", (event) => { if (event.target instanceof HTMLImageElement) drop(event.target); }, { capture: true });
for (const image of document.querySelectorAll(".ix-cover img")) if (image.complete && !image.naturalWidth) drop(image);
