// What a visitor has chosen stands behind the # of the address, so that a view can be sent to somebody.
window.ZooState = (function () {
  "use strict";
  function read() { return new URLSearchParams(window.location.hash.slice(1)); }
  function write(values) {
    var state = new URLSearchParams();
    Object.keys(values).forEach(function (key) { if (values[key]) state.set(key, values[key]); });
    var text = state.toString();
    // without an entry of the history for each letter that is typed
    window.history.replaceState(null, "", text ? "#" + text : window.location.pathname + window.location.search);
  }
  return { read: read, write: write };
})();
