document.documentElement.classList.add("js");
document.querySelectorAll("th[aria-sort] button").forEach(function (button) {
  button.addEventListener("click", function () {
    var head = button.parentNode, row = head.parentNode, body = head.closest("table").tBodies[0];
    var column = Array.prototype.indexOf.call(row.cells, head);
    var down = head.getAttribute("aria-sort") !== "descending";
    Array.prototype.forEach.call(row.cells, function (cell) {
      if (cell.hasAttribute("aria-sort")) cell.setAttribute("aria-sort", "none");
    });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    var value = function (line) { return parseFloat(line.cells[column].getAttribute("data-value")); };
    Array.prototype.slice.call(body.rows).sort(function (a, b) {
      var x = value(a), y = value(b);
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
      return down ? y - x : x - y;
    }).forEach(function (line) { body.appendChild(line); });
  });
});
