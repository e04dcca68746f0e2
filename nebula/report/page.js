// Pointing at a stage anywhere dims all that belongs to other stages.
const parts = document.querySelectorAll("[data-stage]");
const show = (stage) =>
  parts.forEach((part) => part.classList.toggle("dim", stage !== null && part.dataset.stage !== stage));
parts.forEach((part) => {
  part.addEventListener("mouseenter", () => show(part.dataset.stage));
  part.addEventListener("mouseleave", () => show(null));
});
