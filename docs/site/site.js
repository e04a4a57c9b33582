// A chooser of versions below the search of the sidebar; versions.js beside the versions' folders names them.
document.addEventListener("DOMContentLoaded", () => {
  const search = document.querySelector(".sidebar-search-container");
  if (typeof VERSIONS === "undefined" || !search) return;
  const chooser = document.createElement("select");
  chooser.ariaLabel = "Version";
  chooser.className = "sidebar-versions";
  const here = document.querySelector(".sidebar-brand-text").textContent.split(" ").pop();
  for (const version of VERSIONS) chooser.add(new Option(`Version ${version}`, version, false, version === here));
  chooser.addEventListener("change", () => {
    location.href = `${document.documentElement.dataset.content_root}../${chooser.value}/README.html`;
  });
  search.after(chooser);
});
