"use strict";
// Without this script all is shown; with it lines can be hidden, and one length of fine-tuning is shown at a time.
(() => {
  const button = (pressed) => {
    const made = document.createElement("button");
    made.type = "button";
    made.setAttribute("aria-pressed", String(pressed));
    return made;
  };

  const legend = (model, item) => {
    const key = item.querySelector(".key");
    const made = button(true);
    made.className = "key";
    made.append(...key.childNodes);
    key.replaceWith(made);
    made.addEventListener("click", () => {
      const shown = made.getAttribute("aria-pressed") === "false";
      made.setAttribute("aria-pressed", String(shown));
      for (const line of model.querySelectorAll("svg .series[data-method]")) {
        if (line.dataset.method === item.dataset.method) line.classList.toggle("off", !shown);
      }
    });
  };

  const lengths = (place) => {
    const panels = [...place.querySelectorAll(".length")];
    if (panels.length < 2) return;
    const group = document.createElement("div");
    group.className = "switch";
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "Length of fine-tuning after compression");
    const buttons = panels.map((panel) => {
      const made = button(false);
      made.textContent = panel.dataset.length;
      made.addEventListener("click", () => show(panel));
      return made;
    });
    const show = (chosen) => panels.forEach((panel, i) => {
      panel.classList.toggle("off", panel !== chosen);
      buttons[i].setAttribute("aria-pressed", String(panel === chosen));
    });
    group.append(...buttons);
    place.before(group);
    show(panels[0]);
  };

  for (const model of document.querySelectorAll(".model")) {
    for (const item of model.querySelectorAll(".legend [data-method]")) legend(model, item);
    for (const place of model.querySelectorAll(".lengths")) lengths(place);
  }
})();
