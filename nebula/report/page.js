// Pointing at a stage anywhere dims all that belongs to other stages.
const parts = document.querySelectorAll("[data-stage]");
const show = (stage) =>
  parts.forEach((part) => part.classList.toggle("dim", stage !== null && part.dataset.stage !== stage));
parts.forEach((part) => {
  part.addEventListener("mouseenter", () => show(part.dataset.stage));
  part.addEventListener("mouseleave", () => show(null));
});

// What is filled in is set against what was predicted.
const fields = [...document.querySelectorAll("input[data-predicted]")];
const json = document.querySelector("pre[data-plan]");
const compare = () => {
  fields.forEach((field) => {
    const { predicted, low, high } = field.dataset;
    const off = (field.value / predicted - 1) * 100;
    const within = +field.value >= +low && +field.value <= +high ? "within the range" : "outside the range";
    const words = `${off < 0 ? "−" : "+"}${Math.abs(off).toFixed(1)} %${+high ? `, ${within}` : ""}`;
    field.closest("tr").querySelector("output").value = field.value === "" ? "" : words;
  });
  const rows = fields.map(({ value, dataset: { name, unit, predicted } }) => ({
    name, unit, predicted: +predicted, measured: value === "" ? null : +value,
  }));
  if (json) json.textContent = JSON.stringify({ plan: json.dataset.plan, rows }, null, 1);
};
fields.forEach((field) => field.addEventListener("input", compare));
compare();
