// Light or dark: the visitor's system, until somebody chooses; the choice is remembered. Runs before anything is drawn.
(function () {
  "use strict";
  var root = document.documentElement, system = window.matchMedia("(prefers-color-scheme: dark)");
  function remembered() {
    try { return window.localStorage.getItem("zoo-theme"); } catch (_) { return null; }
  }
  function dark() { return root.dataset.theme === "dark"; }
  function show(theme) {
    root.dataset.theme = theme;
    var button = document.getElementById("theme");
    if (button) button.setAttribute("aria-pressed", String(dark()));
    document.dispatchEvent(new CustomEvent("zoo-theme"));
  }
  function systems() { return system.matches ? "dark" : "light"; }
  var own = remembered();
  show(own === "dark" || own === "light" ? own : systems());
  system.addEventListener("change", function () { if (!remembered()) show(systems()); });
  document.addEventListener("DOMContentLoaded", function () {
    show(root.dataset.theme);
    document.getElementById("theme").addEventListener("click", function () {
      var next = dark() ? "light" : "dark";
      try { window.localStorage.setItem("zoo-theme", next); } catch (_) { /* kept for this page alone */ }
      show(next);
    });
  });
})();
