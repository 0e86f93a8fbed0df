// Marks carry their numbers as labels for screen readers; this shows the same words under the pointer.
(() => {
  const tip = document.getElementById("tip");
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest && event.target.closest('svg [role="graphics-symbol"][aria-label]');
    const label = mark && mark.getAttribute("aria-roledescription") !== "axis" && mark.getAttribute("aria-label");
    const said = label && mark.getAttribute("aria-roledescription") !== "legend" ? label : "";
    tip.hidden = !said;
    if (!said) return;
    tip.textContent = said;
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const y = event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18;
    tip.style.left = x + "px";
    tip.style.top = y + "px";
  });
})();
