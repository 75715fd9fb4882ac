// The search box: weights, architectures and families, from ZOO.search.
(function () {
  "use strict";
  var rows = (window.ZOO || {}).search || [], root = document.documentElement.dataset.root;
  var input = document.getElementById("find"), list = document.getElementById("found");
  var count = document.getElementById("found-count"), active = -1, shown = [];
  var ranks = { family: 0, weight: 1, architecture: 2 };

  function matches(words) {
    var found = [];
    rows.forEach(function (row) {
      var title = row[0].toLowerCase(), all = title + " " + row[1] + " " + row[2].toLowerCase();
      if (!words.every(function (word) { return all.includes(word); })) return;
      var first = title.startsWith(words[0]) ? 0 : title.includes(words[0]) ? 1 : 2;
      found.push([10 * first + ranks[row[1]], row]);
    });
    found.sort(function (a, b) { return a[0] - b[0]; });
    return found.map(function (pair) { return pair[1]; });
  }
  function close() {
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }
  function open() {
    var words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) { count.textContent = ""; close(); return; }
    var found = matches(words);
    shown = found.slice(0, 12);
    list.replaceChildren.apply(list, shown.map(function (row, i) {
      var item = document.createElement("li"), kind = document.createElement("span");
      item.id = "found-" + i;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", "false");
      item.textContent = row[0];
      kind.textContent = row[1];
      item.append(kind);
      item.addEventListener("mousedown", function (event) { event.preventDefault(); go(i); });
      return item;
    }));
    active = -1;
    list.hidden = !shown.length;
    input.setAttribute("aria-expanded", String(shown.length > 0));
    input.removeAttribute("aria-activedescendant");
    count.textContent = found.length ? found.length + " found" : "nothing found";
  }
  function mark(i) {
    Array.from(list.children).forEach(function (item, k) { item.setAttribute("aria-selected", String(k === i)); });
    active = i;
    input.setAttribute("aria-activedescendant", "found-" + i);
    list.children[i].scrollIntoView({ block: "nearest" });
  }
  function go(i) { window.location.href = root + shown[i][3]; }

  input.addEventListener("input", open);
  input.addEventListener("focus", open);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", function (event) {
    if (event.key === "Escape") { close(); return; }
    if (list.hidden || !shown.length) return;
    if (event.key === "ArrowDown") mark((active + 1) % shown.length);
    else if (event.key === "ArrowUp") mark((active + shown.length - 1) % shown.length);
    else if (event.key === "Enter") go(Math.max(active, 0));
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", function (event) {
    var at = event.target;
    if (event.key === "/" && !event.ctrlKey && !event.metaKey && !at.closest("input, select, textarea")) {
      event.preventDefault();
      input.focus();
    }
  });
})();
