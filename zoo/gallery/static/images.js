// Predictions of a set as arrays, and what an image looks like on a page.
window.ZooImages = (function () {
  "use strict";
  function unpack(text) {
    var bytes = window.atob(text), values = new Uint16Array(bytes.length / 2);
    for (var i = 0; i < values.length; i++) values[i] = bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8);
    return values;
  }
  function predictions(name) {
    var packed = window.ZOO["predictions/" + name];
    if (packed && !packed.said) {
      packed.said = { prediction: unpack(packed.prediction), score: unpack(packed.score) };
    }
    return packed && packed.said;
  }
  // A set's labels are -1 where every weight is wrong and nothing tells the class: so nobody is right there.
  function right(set, said, i) { return set.labels[i] === said.prediction[i]; }
  function thumb(set, i, root) {
    var sheets = set.sheets;
    if (!sheets) return null;
    if (!sheets.place) {
      sheets.place = new Map();
      unpack(sheets.places).forEach(function (image, k) { sheets.place.set(image, k); });
    }
    if (!sheets.place.has(i)) return null;
    var side = 64, place = sheets.place.get(i), per = sheets.columns * sheets.columns, k = place % per;
    var found = document.createElement("span");
    found.className = "thumb";
    found.setAttribute("role", "img");
    found.setAttribute("aria-label", "test image " + i);
    Object.assign(found.style, {
      width: side + "px", height: side + "px",
      backgroundImage: "url('" + root + sheets.folder + "/" + Math.floor(place / per) + ".png')",
      backgroundSize: side * sheets.columns + "px " + side * sheets.columns + "px",
      backgroundPosition: -side * (k % sheets.columns) + "px " + -side * Math.floor(k / sheets.columns) + "px"
    });
    return found;
  }
  function line(text, kind) {
    var found = document.createElement("span");
    found.textContent = text;
    if (kind) found.className = kind;
    return found;
  }
  function label(set, i) { return set.labels[i] < 0 ? "class not known here" : set.classes[set.labels[i]]; }
  function percent(thousandths) { return (thousandths / 10).toFixed(1) + " %"; }
  // an item of a list: the picture if there is one, its number and class, and further lines
  function item(set, i, root, lines) {
    var found = document.createElement("li"), text = document.createElement("p"), picture = thumb(set, i, root);
    found.className = "image";
    if (picture) found.append(picture);
    [line("image " + i, "quiet"), line(label(set, i))].concat(lines).forEach(function (one, k) {
      if (k) text.append(document.createElement("br"));
      text.append(one);
    });
    found.append(text);
    return found;
  }
  return { item: item, line: line, percent: percent, predictions: predictions, right: right };
})();
