// Boxes that scroll sideways can be reached and scrolled with the keyboard; those that do not scroll are no stop for it.
const SCROLLING = "div.math, mjx-container[display], .pst-scrollable-table-container, div.highlight pre, .cell_output .output";

function markScrolling() {
  for (const box of document.querySelectorAll(SCROLLING)) {
    const style = getComputedStyle(box);
    const scrolls = box.scrollWidth > box.clientWidth && ["auto", "scroll"].includes(style.overflowX);
    if (scrolls) box.tabIndex = 0;
    else if (box.tabIndex === 0 && box.dataset.scrolls) box.removeAttribute("tabindex");
    box.dataset.scrolls = scrolls ? "yes" : "";
  }
}

addEventListener("load", () => {
  const ready = window.MathJax?.startup?.promise ?? Promise.resolve();
  ready.then(markScrolling);
  new ResizeObserver(markScrolling).observe(document.body);
});

// A browser does not let a page opened from a folder read other pages: there the search lists titles without excerpts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
