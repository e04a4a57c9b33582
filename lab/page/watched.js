// What a person could have seen, and when, and what a finger misses: runs in a page before anything of it. Lengths are
// of the newest answer, in UTF-16 units; times are milliseconds since the Unix epoch, after a frame that shows it.
{
  const { port1, port2 } = new MessageChannel();
  const length = () => [...document.querySelectorAll("#conversation .answer")].at(-1)?.textContent.length ?? 0;
  let due = false;
  window.painted = [];
  window.violations = [];
  // Less than 44 pixels wide or high. Links within a sentence need no room around them; a box is hit by its label.
  window.small = () =>
    [...document.querySelectorAll("a, button, input, select, summary, textarea, .inline, .check")]
      .filter((it) => it.checkVisibility() && !it.closest(".answer p, .unseen") && !it.matches("label > [type=checkbox]"))
      .map((it) => [it.outerHTML.slice(0, 80), it.getBoundingClientRect()])
      .filter(([, { width, height, bottom }]) => bottom + scrollY > 0 && Math.min(width, height) < 44)
      .map(([html, { width, height }]) => `${width} x ${height}: ${html}`);
  window.copyImage = async () => {
    const image = await new Promise((done) => document.createElement("canvas").toBlob(done));
    await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
  };
  port1.onmessage = () => {
    due = false;
    window.painted.push([length(), performance.timeOrigin + performance.now()]);
  };
  const changed = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => port2.postMessage(0));
  };
  new MutationObserver(changed).observe(document, { subtree: true, childList: true, characterData: true });
  document.addEventListener("securitypolicyviolation", (event) =>
    window.violations.push(`${event.violatedDirective}: ${event.blockedURI || event.sourceFile}`));
}
