// Sends a form as it is changed, and puts the parts of the answer that it names in place of the page's.
// Without this script the same forms are sent by their buttons.
"use strict";

const PAUSE_MS = 120;

function moved(slider) {
  const part = slider.closest(".slider");
  part.dataset.number = slider.value;
  part.querySelector("output").value = slider.value;
  const parts = [...document.querySelectorAll(".slider")];
  slider.form.elements.rule.value = parts.map((one) => one.dataset.before + one.dataset.number).join("\nand ");
}

function live(form) {
  let timer, busy = false, waiting = false, keep = "";

  async function send(button) {
    if (busy) { waiting = true; return; }
    busy = true;
    const values = [...new FormData(form, button)].filter(([, value]) => value !== "");
    const address = form.getAttribute("action") + "?" + new URLSearchParams(values);
    document.getElementById("answer").setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(address);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const id of form.dataset.live.split(" ")) {
        const part = page.getElementById(id);
        if (part && id !== keep) document.getElementById(id).replaceWith(part);
      }
      history.replaceState(null, "", address);
    } catch {
      const told = document.createElement("p");
      told.className = "error";
      told.role = "alert";
      told.textContent = "The server does not answer. Is rasterloom serve still running?";
      document.getElementById("answer").replaceChildren(told);
    }
    busy = false;
    if (waiting) { waiting = false; send(); }
  }

  form.addEventListener("input", (event) => {
    const slides = event.target.type === "range";
    keep = slides ? "sliders" : ""; // not replaced under the pointer
    if (slides) moved(event.target);
    clearTimeout(timer);
    timer = setTimeout(send, PAUSE_MS);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    send(event.submitter);
  });
}

document.querySelectorAll("form[data-live]").forEach(live);
