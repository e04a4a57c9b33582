// What a person could have seen, and when: runs in a page before anything of it. Lengths are of the newest answer, in
// UTF-16 units; times are milliseconds since the Unix epoch, taken after a frame that shows the change was drawn.
{
  const { port1, port2 } = new MessageChannel();
  const length = () => [...document.querySelectorAll("#conversation .answer")].at(-1)?.textContent.length ?? 0;
  let due = false;
  window.painted = [];
  window.violations = [];
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
