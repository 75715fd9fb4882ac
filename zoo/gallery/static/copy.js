// Buttons that copy the code they name (data-copy); without the clipboard's permission in the old way.
(function () {
  "use strict";
  function say(text) { document.getElementById("said").textContent = text; }
  function inTheOldWay(text) {
    var area = document.createElement("textarea"), focused = document.activeElement;
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    var done = document.execCommand("copy");
    area.remove();
    if (focused) focused.focus();
    return done;
  }
  function finish(button, done) {
    var before = button.dataset.word || button.textContent;
    button.dataset.word = before;
    button.textContent = done ? "Copied" : "Select and copy";
    say(done ? "Copied to the clipboard" : "The browser refused; select the text and copy it");
    window.setTimeout(function () { button.textContent = before; }, 1600);
  }
  document.addEventListener("click", function (event) {
    var button = event.target.closest("[data-copy]");
    if (!button) return;
    var text = document.getElementById(button.dataset.copy).textContent;
    var clipboard = navigator.clipboard;
    if (!clipboard || !clipboard.writeText) { finish(button, inTheOldWay(text)); return; }
    clipboard.writeText(text).then(
      function () { finish(button, true); },
      function () { finish(button, inTheOldWay(text)); }
    );
  });
})();
