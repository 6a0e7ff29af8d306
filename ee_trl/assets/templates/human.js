"use strict";
(function () {
  const form = document.getElementById("sheet");
  const { study, sheet, aspects } = document.body.dataset;
  const names = aspects.split(",");
  const place = "ee-trl:" + study + ":" + sheet;

  function collect() {
    const answers = {};
    for (const item of form.querySelectorAll("fieldset.item")) {
      answers[item.dataset.item] = {};
    }
    for (const input of form.querySelectorAll("input:checked")) {
      const [item, aspect] = input.name.split("|");
      answers[item][aspect] = input.value;
    }
    return answers;
  }

  function show() {
    let done = 0;
    const answers = collect();
    for (const item of form.querySelectorAll("fieldset.item")) {
      const whole = Object.keys(answers[item.dataset.item]).length === names.length;
      item.classList.toggle("done", whole);
      done += whole ? 1 : 0;
    }
    document.getElementById("progress").textContent = done + " of " + Object.keys(answers).length + " answered";
  }

  function keep() {
    try {
      localStorage.setItem(place, JSON.stringify(collect()));
    } catch (error) { /* private windows keep nothing; the file is what counts */ }
  }

  function restore() {
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(place)) || {};
    } catch (error) { /* nothing was kept */ }
    for (const input of form.querySelectorAll("input")) {
      const [item, aspect] = input.name.split("|");
      if (kept[item] && kept[item][aspect] === input.value) {
        input.checked = true;
      }
    }
  }

  form.addEventListener("change", function () {
    keep();
    show();
  });
  document.getElementById("save").addEventListener("click", function () {
    const text = JSON.stringify({ study: study, sheet: sheet, aspects: names, answers: collect() }, null, 2);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = sheet + "-answers.json";
    link.click();
  });
  restore();
  show();
})();
