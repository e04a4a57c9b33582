// For keyboards and screen readers; then a chooser of versions below the sidebar's search. versions.js beside the
// versions' folders names them.
document.addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.ariaLevel = "2";
  for (const scrolls of document.querySelectorAll("pre, .table-wrapper")) scrolls.tabIndex = 0;
  document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "All pages");
  document.querySelector(".toc-drawer")?.setAttribute("aria-label", "On this page");
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
