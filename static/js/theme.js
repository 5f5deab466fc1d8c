// Applies the chosen theme before the first paint; without a choice the system's preference holds.
"use strict";
(() => {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") {
    document.documentElement.dataset.bsTheme = chosen;
  }
})();
