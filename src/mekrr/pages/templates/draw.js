// Draws every figure of the page from the JSON beside it.
(function () {
  "use strict";
  var config = { responsive: true, displayModeBar: false };
  document.querySelectorAll("div.plot").forEach(function (box) {
    var figure = JSON.parse(box.nextElementSibling.textContent);
    box.textContent = "";
    Plotly.newPlot(box, figure.data, figure.layout, config).then(function () {
      if (figure.frames) { Plotly.addFrames(box, figure.frames); }
    });
  });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("div.plot").forEach(function (box) { Plotly.Plots.resize(box); });
  });
})();
