// Starts the viewer on the data of the page, and lets the buttons choose what atoms are coloured by.
(function () {
  "use strict";
  var failure = document.getElementById("failure");
  var buttons = document.querySelectorAll(".colours button");
  var parts = { map: "chemiscope-map", structure: "chemiscope-structure", info: "chemiscope-info", meta: "chemiscope-meta" };
  var data = JSON.parse(document.getElementById("dataset").textContent, function (key, value) {
    return value === null ? NaN : value;
  });
  var warnings = new Chemiscope.Warnings();
  warnings.addHandler(function (message) { failure.textContent = message; });

  function press(visualizer, button) {
    var colour = { property: button.dataset.property, palette: button.dataset.palette };
    if (colour.property !== "element") {
      // in one call: the viewer's own range is that of one structure, and it fails where all atoms of that are alike
      colour.min = Number(button.dataset.low);
      colour.max = Number(button.dataset.high);
    }
    visualizer.structure.applySettings([{ color: colour }]);
    buttons.forEach(function (other) { other.setAttribute("aria-pressed", String(other === button)); });
  }

  Chemiscope.DefaultVisualizer.load(parts, data, warnings).then(function (visualizer) {
    buttons.forEach(function (button) {
      button.addEventListener("click", function () { press(visualizer, button); });
    });
    press(visualizer, buttons[0]);
    window.viewer = visualizer;
    document.body.dataset.viewer = "ready";
  }).catch(function (error) {
    failure.textContent = "The viewer could not start: " + error.message;
    console.error(error);
  });
})();
