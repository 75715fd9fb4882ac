// Weights against a first one. Every figure was computed with the site, by the function behind zoo compare; this counts
// only which images to show.
(function () {
  "use strict";
  var P = window.ZooPlots, I = window.ZooImages, PAGE = 24, page = PAGE, sets = {};
  var get = function (id) { return document.getElementById(id); };
  Object.keys(window.ZOO).forEach(function (key) {
    if (key.startsWith("sets/")) sets[key.slice(5)] = window.ZOO[key];
  });
  function set() { return sets[get("c-set").value]; }
  function names() { return Object.keys(set().pairs); }
  function others() {
    return Array.from(get("c-others").querySelectorAll("input:checked")).map(function (box) { return box.value; });
  }

  // A script of predictions is loaded when its weight is chosen; then() is called once, also if it is there already.
  var loading = {};
  function load(name, then) {
    if (I.predictions(name)) { then(); return; }
    loading[name] = loading[name] || new Promise(function (resolve) {
      var script = document.createElement("script");
      script.src = "data/predictions/" + name + ".js";
      script.addEventListener("load", resolve);
      document.head.append(script);
    });
    loading[name].then(then);
  }
  function loadAll(all, then) {
    var left = all.length;
    all.forEach(function (name) { load(name, function () { left -= 1; if (!left) then(); }); });
  }

  function fillSet(wanted) {
    var first = get("c-first"), list = names();
    first.replaceChildren.apply(first, list.map(function (name) { return new Option(name, name); }));
    first.value = list.includes(wanted[0]) ? wanted[0] : list[0];
    fillOthers(wanted.slice(1));
    var classes = get("c-class");
    classes.replaceChildren.apply(classes, [new Option("any", "")].concat(set().classes.map(function (c, i) {
      return new Option(c, i);
    })));
  }
  function fillOthers(wanted) {
    var first = get("c-first").value, list = names().filter(function (name) { return name !== first; });
    var chosen = wanted.filter(function (name) { return list.includes(name); });
    if (!chosen.length && list.length) chosen = [list[0]];
    get("c-others").replaceChildren.apply(get("c-others"), list.map(function (name) {
      var label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox";
      box.value = name;
      box.checked = chosen.includes(name);
      label.className = "check mono";
      label.append(box, name);
      return label;
    }));
  }
  function fillWhich() {
    var first = get("c-first").value, list = others(), which = get("c-which"), before = which.value;
    var options = [["differ", "one is right, another wrong"], ["first", "only " + first + " is right"]];
    list.forEach(function (name) { options.push(["only:" + name, "only " + name + " is right"]); });
    options.push(["guesses", "all wrong, with different guesses"], ["wrong", "all wrong"]);
    which.replaceChildren.apply(which, options.map(function (o) { return new Option(o[1], o[0]); }));
    which.value = options.some(function (o) { return o[0] === before; }) ? before : "differ";
  }

  function row(cells) {
    var found = document.createElement("tr");
    cells.forEach(function (cell, i) {
      var part = document.createElement(i ? "td" : "th");
      if (i) part.className = "number"; else part.scope = "row";
      if (i) part.textContent = cell;
      else {
        var link = document.createElement("a");
        link.href = "weights/" + cell + ".html";
        link.textContent = cell;
        part.append(link);
      }
      found.append(part);
    });
    return found;
  }
  function table(first, list) {
    var body = document.querySelector("#c-table tbody"), pairs = set().pairs[first];
    body.replaceChildren.apply(body, list.map(function (name) {
      var c = pairs[name];
      return row([name, c.said.top1, c.said.difference, c.said.interval, c.both.toLocaleString("en"),
        c.only_first.toLocaleString("en"), c.only_second.toLocaleString("en"), c.neither.toLocaleString("en"), c.said.p]);
    }));
    if (!list.length) { get("c-said").textContent = "Choose a weight to compare " + first + " with."; return; }
    var any = pairs[list[0]], right = any.both + any.only_first;
    var words = first + " gets " + right.toLocaleString("en") + " of " + any.n.toLocaleString("en") + " images right, "
      + (100 * right / any.n).toFixed(2) + " %.";
    list.forEach(function (name) {
      var c = pairs[name];
      words += " " + name + " differs by " + c.said.difference + " points (" + c.said.interval + "), "
        + (c.said.clear ? "clear of the choice of images: the interval leaves 0 out." : "not clear of the choice of images: the interval holds 0.");
      if (c.said.seeds) words += " " + c.said.seeds;
    });
    get("c-said").textContent = words;
    get("c-command").textContent = "zoo compare " + [first].concat(list).join(" ");
  }
  function plot(first, list) {
    function make() {
      var pairs = set().pairs[first], shown = list.slice().reverse();
      function bar(key, sign, name, colour) {
        return { type: "bar", orientation: "h", name: name, y: shown,
          x: shown.map(function (other) { return sign * pairs[other][key]; }),
          text: shown.map(function (other) { return String(pairs[other][key]); }), textposition: "auto",
          hovertemplate: "%{y}: %{text} images<extra></extra>", marker: { color: P.colour(colour) },
          insidetextfont: { color: P.colour("--on-accent") }, outsidetextfont: { color: P.colour("--ink") } };
      }
      return {
        traces: [bar("only_first", -1, "only " + first, "--c3"), bar("only_second", 1, "only this one", "--c2")],
        layout: P.layout({ barmode: "relative", bargap: 0.3, height: 110 + 44 * shown.length,
          xaxis: P.axis({ title: { text: "images" }, showticklabels: false, zerolinecolor: P.colour("--ink") }),
          yaxis: P.axis({ showgrid: false, type: "category" }) })
      };
    }
    P.draw(get("c-plot"), make);
  }
  function images(first, list) {
    var all = [first].concat(list), found = set(), which = get("c-which").value, label = get("c-class").value;
    var said = all.map(I.predictions);
    function wanted(i) {
      var right = said.map(function (p) { return I.right(found, p, i); });
      var count = right.filter(Boolean).length;
      if (which === "differ") return count > 0 && count < all.length;
      if (which === "first") return right[0] && count === 1;
      if (which === "wrong") return count === 0;
      if (which === "guesses") {
        return count === 0 && said.some(function (p) { return p.prediction[i] !== said[0].prediction[i]; });
      }
      return right[all.indexOf(which.slice(5))] && count === 1;
    }
    var chosen = found.labels.map(function (_, i) { return i; }).filter(function (i) {
      return (label === "" || found.labels[i] === Number(label)) && wanted(i);
    });
    get("c-images").replaceChildren.apply(get("c-images"), chosen.slice(0, page).map(function (i) {
      return I.item(found, i, "", all.map(function (name, k) {
        var right = I.right(found, said[k], i), line = document.createElement("span");
        line.append(I.line((right ? "✓ " : "✗ ") + found.classes[said[k].prediction[i]] + ", " + I.percent(said[k].score[i]),
          right ? "good" : "bad"), I.line(" " + name, "quiet small"));
        return line;
      }));
    }));
    get("c-more").hidden = chosen.length <= page;
    get("c-count").textContent = Math.min(page, chosen.length) + " of " + chosen.length + " images shown";
  }
  function show() {
    var first = get("c-first").value, list = others();
    var state = { set: Object.keys(sets).length > 1 ? get("c-set").value : "", w: [first].concat(list).join(",") };
    fillWhich();
    state.which = get("c-which").value === "differ" ? "" : get("c-which").value;
    state.class = get("c-class").value;
    window.ZooState.write(state);
    table(first, list);
    get("c-region").hidden = !list.length;
    plot(first, list);
    loadAll([first].concat(list), function () {
      // by now somebody may have chosen others
      if (first === get("c-first").value && list.join() === others().join()) images(first, list);
    });
  }
  function restore() {
    var state = window.ZooState.read(), wanted = (state.get("w") || "").split(",").filter(Boolean);
    var key = Object.keys(sets).find(function (k) { return wanted.length && wanted[0] in sets[k].pairs; });
    get("c-set").value = key || (state.get("set") in sets ? state.get("set") : Object.keys(sets)[0]);
    fillSet(wanted);
    fillWhich();
    var which = get("c-which");
    if (state.get("which") && Array.from(which.options).some(function (o) { return o.value === state.get("which"); })) {
      which.value = state.get("which");
    }
    if (state.get("class") && Number(state.get("class")) in set().classes) get("c-class").value = state.get("class");
    page = PAGE;
    show();
  }
  get("choice").addEventListener("submit", function (event) { event.preventDefault(); });
  get("c-set").addEventListener("input", function () { page = PAGE; fillSet([]); show(); });
  get("c-first").addEventListener("input", function () { page = PAGE; fillOthers(others()); show(); });
  get("c-others").addEventListener("input", function () { page = PAGE; show(); });
  get("c-which").addEventListener("input", function () { page = PAGE; show(); });
  get("c-class").addEventListener("input", function () { page = PAGE; show(); });
  get("c-more").addEventListener("click", function () { page += 2 * PAGE; show(); });
  window.addEventListener("hashchange", restore);
  restore();
})();
