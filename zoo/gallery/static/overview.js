// The table of all weights, its filters, and the plot of those that pass them.
(function () {
  "use strict";
  var P = window.ZooPlots, data = window.ZOO.plot, weights = new Map();
  data.weights.forEach(function (w) { weights.set(w.name, w); });
  var get = function (id) { return document.getElementById(id); };
  var inputs = { q: get("f-q"), dataset: get("f-dataset"), family: get("f-family"), by: get("f-by"),
    params: get("f-params"), top1: get("f-top1"), x: get("x"), y: get("y") };
  var SYMBOLS = ["circle", "diamond", "square", "triangle-up", "star"], DASHES = ["dot", "dash", "longdash", "dashdot"];
  var names = {};
  Array.from(inputs.dataset.options).forEach(function (option) { names[option.value] = option.text; });
  var published = get("published"), plot = get("pareto"), first = { x: "nonzero", y: "top1" };

  data.axes.forEach(function (axis) {
    [inputs.x, inputs.y].forEach(function (select) { select.add(new Option(axis.title, axis.key)); });
  });
  function axisOf(key) { return data.axes.find(function (axis) { return axis.key === key; }); }

  // "1M" and "500k"; null for nothing, NaN for what is no number
  function numberOf(text) {
    var found = text.trim().replace(/,/g, "").match(/^(\d*\.?\d+)\s*([kmg]?)$/i);
    if (!text.trim()) return null;
    return found ? found[1] * { "": 1, k: 1e3, m: 1e6, g: 1e9 }[found[2].toLowerCase()] : NaN;
  }
  function passes(w) {
    var most = numberOf(inputs.params.value), least = numberOf(inputs.top1.value);
    return (!inputs.dataset.value || w.dataset === inputs.dataset.value)
      && (!inputs.family.value || w.family === inputs.family.value)
      && (!inputs.by.value || w.trained_by === inputs.by.value)
      && (most === null || Number.isNaN(most) || w.values.nonzero <= most)
      && (least === null || Number.isNaN(least) || (w.values.top1 !== null && w.values.top1 >= least));
  }

  // What is missing comes last, whichever way a column is sorted.
  function ordered(sign) {
    return function (a, b) {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (a < b ? -1 : a > b ? 1 : 0);
    };
  }
  DataTable.type("zoo-figure", {
    order: {
      pre: function (value) { return value === "" || value === null ? null : Number(value); },
      asc: ordered(1), desc: ordered(-1)
    }
  });
  var heads = Array.from(document.querySelectorAll("#weights thead tr:last-child th"));
  var columns = heads.map(function (head) {
    return head.classList.contains("number") ? { type: "zoo-figure", orderSequence: ["desc", "asc"] } : {};
  });
  var state = window.ZooState.read();
  var order = (state.get("order") || "3.desc").split(".");
  var place = Number(order[0]);
  if (!(place >= 0 && place < heads.length) || (order[1] !== "asc" && order[1] !== "desc")) order = ["3", "desc"];
  var table = new DataTable("#weights", {
    paging: false, info: false, autoWidth: false, columns: columns,
    order: [[Number(order[0]), order[1]]],
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    language: { emptyTable: "No weight", zeroRecords: "No weight passes these filters" }
  });
  table.search.fixed("filters", function (_text, _data, index) {
    return passes(weights.get(table.row(index).node().dataset.name));
  });

  function shown() {
    return table.rows({ search: "applied" }).nodes().toArray().map(function (row) { return weights.get(row.dataset.name); });
  }
  // Which points no other one beats: at least as good in both figures, and better in one.
  function front(points, x, y) {
    function better(a, b, axis, orEqual) {
      var gain = (axis.better === "less" ? 1 : -1) * (b.values[axis.key] - a.values[axis.key]);
      return orEqual ? gain >= 0 : gain > 0;
    }
    return points.filter(function (b) {
      return !points.some(function (a) {
        return better(a, b, x, true) && better(a, b, y, true) && (better(a, b, x) || better(a, b, y));
      });
    }).sort(function (a, b) { return a.values[x.key] - b.values[x.key]; });
  }
  function word(value) {
    if (value >= 1e4) {
      var unit = value >= 1e9 ? [1e9, " G"] : value >= 1e6 ? [1e6, " M"] : [1e3, " k"];
      return Number((value / unit[0]).toPrecision(4)) + unit[1];
    }
    return String(Number(value.toPrecision(4)));
  }
  function has(x, y) {
    return function (w) {
      return typeof w.values[x.key] === "number" && typeof w.values[y.key] === "number";
    };
  }
  function draw() {
    var x = axisOf(inputs.x.value), y = axisOf(inputs.y.value);
    var passed = shown(), points = passed.filter(has(x, y));
    var sets = Array.from(new Set(points.map(function (w) { return w.dataset; })));
    // figures of several data sets do not compare: each has a front of its own
    var fronts = sets.map(function (set) {
      return front(points.filter(function (w) { return w.dataset === set; }), x, y);
    });
    var best = fronts.flat();
    var others = published.checked && sets.includes("cifar10") ? data.published.filter(has(x, y)) : [];
    function hover(w) {
      return "<b>" + w.name + "</b><br>" + y.title + ": " + word(w.values[y.key])
        + (y.key === "top1" && w.interval ? " (" + w.interval[0] + " to " + w.interval[1] + ")" : "")
        + "<br>" + x.title + ": " + word(w.values[x.key]) + (w.source ? "<br>" + w.source : "<br>" + w.dataset);
    }
    function trace(chosen, more) {
      return Object.assign({
        type: "scatter", mode: "markers", hoverinfo: "text", text: chosen.map(hover),
        x: chosen.map(function (w) { return w.values[x.key]; }), y: chosen.map(function (w) { return w.values[y.key]; }),
        customdata: chosen.map(function (w) { return w.source ? "" : w.name; })
      }, more);
    }
    function make() {
      var traces = [];
      if (others.length) {
        traces.push(trace(others, { name: "published by other zoos",
          marker: { symbol: "circle-open", size: 9, color: P.colour("--strong"), line: { width: 1.5 } } }));
      }
      fronts.forEach(function (found, i) {
        traces.push(trace(found, { mode: "lines", name: sets.length > 1 ? "front, " + names[sets[i]] : "front",
          hoverinfo: "skip", line: { color: P.colour("--strong"), width: 1.5, dash: DASHES[i % DASHES.length] } }));
      });
      Array.from(new Set(points.map(function (w) { return w.family; }))).forEach(function (family) {
        var own = points.filter(function (w) { return w.family === family; });
        var bars = y.key === "top1" ? { error_y: { type: "data", symmetric: false, thickness: 1, width: 0,
          color: P.familyColour(family),
          array: own.map(function (w) { return w.interval ? w.interval[1] - w.values.top1 : 0; }),
          arrayminus: own.map(function (w) { return w.interval ? w.values.top1 - w.interval[0] : 0; }) } } : {};
        traces.push(trace(own, Object.assign({ name: data.families[family], marker: { color: P.familyColour(family), 
          symbol: own.map(function (w) { return sets.length > 1 ? SYMBOLS[sets.indexOf(w.dataset) % SYMBOLS.length] : P.symbol(family); }),
          size: own.map(function (w) { return best.includes(w) ? 13 : 9; }),
          opacity: own.map(function (w) { return best.includes(w) ? 1 : 0.75; }),
          line: { width: own.map(function (w) { return best.includes(w) ? 2 : 0; }), color: P.colour("--ink") } } }, bars)));
      });
      function scale(axis) {
        return P.axis({ title: { text: axis.title, standoff: 12 }, type: axis.log ? "log" : "linear",
          dtick: axis.log ? (plot.clientWidth < 600 ? 1 : "D2") : undefined, tickformat: axis.log ? "~s" : undefined });
      }
      return { traces: traces, layout: P.layout({ xaxis: scale(x), yaxis: scale(y), showlegend: true }) };
    }
    P.draw(plot, make);
    var text = points.length + " of " + passed.length + " weights have both figures.";
    get("pareto-fronts").replaceChildren.apply(get("pareto-fronts"), fronts.map(function (found, i) {
      var item = document.createElement("li");
      item.textContent = names[sets[i]] + ": " + found.map(function (w) {
        return w.name + " (" + word(w.values[x.key]) + ", " + word(w.values[y.key]) + ")";
      }).join("; ");
      return item;
    }));
    if (others.length) text += " Hollow marks: " + others.length + " figures for CIFAR-10 that other zoos publish, not measured here.";
    get("pareto-text").textContent = text;
  }
  function remember() {
    var now = table.order()[0] || [], values = {};
    Object.keys(inputs).forEach(function (key) {
      values[key] = inputs[key].value === first[key] ? "" : inputs[key].value.trim();
    });
    values.order = now.length && now.slice(0, 2).join(".") !== "3.desc" ? now.slice(0, 2).join(".") : "";
    values.published = published.checked ? "" : "no";
    window.ZooState.write(values);
  }
  function apply() {
    [inputs.params, inputs.top1].forEach(function (input) {
      input.setAttribute("aria-invalid", String(Number.isNaN(numberOf(input.value))));
    });
    table.search(inputs.q.value).draw();
    get("f-count").textContent = shown().length + " of " + data.weights.length + " weights";
    draw();
    remember();
  }
  function restore() {
    var state = window.ZooState.read();
    Object.keys(inputs).forEach(function (key) {
      inputs[key].value = state.get(key) || first[key] || "";
      if (inputs[key].value === "" && first[key]) inputs[key].value = first[key];
      if (inputs[key].selectedIndex === -1) inputs[key].selectedIndex = 0;
    });
    published.checked = state.get("published") !== "no";
    apply();
  }
  get("filters").addEventListener("submit", function (event) { event.preventDefault(); });
  get("filters").addEventListener("reset", function () { window.setTimeout(apply); });
  Object.keys(inputs).forEach(function (key) { inputs[key].addEventListener("input", apply); });
  published.addEventListener("input", apply);
  table.on("order", function () { window.setTimeout(remember); });
  document.querySelectorAll("#groups input").forEach(function (box) {
    box.addEventListener("input", function () {
      heads.forEach(function (head, i) {
        if (head.dataset.group === box.dataset.group) table.column(i).visible(box.checked, false);
      });
      table.columns.adjust();
    });
  });
  restore();
  plot.on("plotly_click", function (event) {
    var name = event.points[0].customdata;
    if (name) window.location.href = "weights/" + name + ".html";
  });
  window.addEventListener("hashchange", restore);
})();
