"use strict";
// Without this script everything can still be read and opened: it only searches, and opens what a link leads to.
for (const form of document.querySelectorAll("form.search")) {
  const input = form.querySelector("input");
  const told = document.getElementById(input.dataset.says);
  const entries = [...document.querySelectorAll("details." + input.dataset.finds)];
  const texts = entries.map((entry) => entry.textContent.toLowerCase());
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    let found = 0;
    entries.forEach((entry, place) => {
      const fits = texts[place].includes(wanted);
      entry.hidden = !fits;
      found += fits;
    });
    told.textContent = wanted ? found + " of " + entries.length + " found" : "";
  });
}
function openTarget() {
  const target = location.hash ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
  if (target && target.matches("details")) {
    target.hidden = false;
    target.open = true;
    target.scrollIntoView();
    target.querySelector("summary").focus();
  }
}
window.addEventListener("hashchange", openTarget);
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#item-']");
  if (link && link.hash === location.hash) openTarget(); // a second click on the same link changes no hash
});
openTarget();
