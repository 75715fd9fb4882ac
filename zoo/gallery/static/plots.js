// What all plots share: colours of the style sheet, which change with the theme, and plotly's settings.
window.ZooPlots = (function () {
  "use strict";
  var drawn = [];
  var families = { lrunet: "--c1", sharing: "--c2", symmetry: "--c3", sparse: "--c4", paradise: "--c5" };
  var symbols = { lrunet: "circle", sharing: "square", symmetry: "diamond", sparse: "triangle-up", paradise: "star" };

  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  function familyColour(family) { return colour(families[family] || "--strong"); }
  function axis(more) {
    return Object.assign({
      gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--strong"),
      tickcolor: colour("--strong"), automargin: true, title: { standoff: 12 }
    }, more);
  }
  function layout(more) {
    return Object.assign({
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: colour("--sans"), size: 13, color: colour("--ink") },
      margin: { l: 10, r: 12, t: 12, b: 10 },
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--strong"), font: { color: colour("--ink") } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, xanchor: "left" },
      hovermode: "closest", dragmode: false
    }, more);
  }
  // make() gives traces and layout with the colours of now; it is called again when the theme changes
  function draw(element, make) {
    var config = { displaylogo: false, displayModeBar: false, responsive: true };
    function redraw() {
      var made = make();
      return window.Plotly.react(element, made.traces, made.layout, config);
    }
    if (drawn.every(function (one) { return one.element !== element; })) drawn.push({ element: element });
    drawn.forEach(function (one) { if (one.element === element) one.redraw = redraw; });
    return redraw();
  }
  document.addEventListener("zoo-theme", function () { drawn.forEach(function (one) { one.redraw(); }); });
  return {
    axis: axis, colour: colour, draw: draw, familyColour: familyColour, layout: layout,
    symbol: function (family) { return symbols[family] || "hexagon"; }
  };
})();
