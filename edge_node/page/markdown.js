/** Answers as Markdown. What a model wrote may be anything: nothing but an allow-list of elements ever comes of it. */
import { make } from "./dom.js";
import { Lexer, Parser, Renderer } from "./vendored/marked.esm.js";
import DOMPurify from "./vendored/purify.es.mjs";

/** Characters of an answer, and of a paragraph, that are read as Markdown; more is shown as it came. */
const MOST = 100_000;
const MOST_INLINE = 4000;
/** Blocks at the end that what comes may still change: the last one, the blank lines before it, and one more. */
const OPEN = 3;
/** A line that begins with this many quotations and lists in each other is shown as it came. */
const DEEP = /^(?: {0,3}(?:>|(?:[-+*]|\d{1,9}[.)])[ \t])){16}/m;
const HOW = { gfm: true, breaks: true };
const ALLOWED = {
  ALLOWED_TAGS: ["a", "blockquote", "br", "code", "del", "em", "h3", "hr", "li", "ol", "p", "pre", "strong", "table",
    "tbody", "td", "th", "thead", "tr", "ul"],
  ALLOWED_ATTR: ["align", "data-depth", "data-lang", "href", "start", "title"],
  ADD_URI_SAFE_ATTR: ["align", "data-depth", "data-lang", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i,
  ALLOW_ARIA_ATTR: false, ALLOW_DATA_ATTR: false, RETURN_DOM_FRAGMENT: true,
};

/** @param {string} text @returns {string} HTML that shows just this */
const literally = (text) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

/** HTML in an answer is shown, not obeyed; no image is fetched; headings stand below the page's own. */
class Plain extends Renderer {
  /** @param {any} token */
  html({ text, block }) {
    if (/^<br\s*\/?>\s*$/i.test(text)) return "<br>";
    return block ? `<p>${literally(text.trimEnd()).replaceAll("\n", "<br>")}</p>` : literally(text);
  }

  /** @param {any} token */
  text(token) {
    if (token.tokens) return this.parser.parseInline(token.tokens);
    return literally(token.text).replace(/&amp;(#?\w{1,31};)/g, "&$1").replaceAll("\n", "<br>");
  }

  /** @param {any} token */
  image({ href, text }) {
    return `<a href="${literally(href)}">${literally(text || "an image")}</a>`;
  }

  /** @param {any} token */
  heading({ tokens, depth }) {
    return `<h3 data-depth="${depth}">${this.parser.parseInline(tokens)}</h3>`;
  }

  /** @param {any} token */
  code({ text, lang }) {
    const [name] = (lang ?? "").match(/^[\w+#.-]{1,20}/) ?? [""];
    return `<pre><code data-lang="${literally(name)}">${literally(text)}</code></pre>`;
  }

  /** @param {any} token */
  checkbox({ checked }) {
    return checked ? "☑ " : "☐ ";
  }
}
const parser = new Parser({ ...HOW, renderer: new Plain() });

/** @param {any} token @returns {ChildNode[]} a block's nodes */
function nodesOf(token) {
  const found = /** @type {any} */ (DOMPurify.sanitize(parser.parse([token]), ALLOWED));
  for (const link of found.querySelectorAll("a")) {
    if (!link.hasAttribute("href")) link.replaceWith(...link.childNodes);
    else Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
  }
  for (const wide of found.querySelectorAll("pre, table")) {
    const box = make("div", { class: wide.localName === "pre" ? "code" : "wide" });
    wide.replaceWith(box);
    if (wide.localName === "pre") {
      const copy = make("button", { type: "button", "data-act": "code" }, "Copy");
      box.append(make("div", { class: "top" }, make("small", {}, wide.firstChild?.dataset?.lang || "code"), copy));
    }
    (wide.localName === "pre" ? wide : box).tabIndex = 0;
    box.append(wide);
  }
  return [...found.childNodes];
}

/** An answer as it comes. Blocks that are complete are drawn once: only the last ones are read again. */
export class Rendered {
  /** @param {any} node */
  constructor(node) {
    this.node = node;
    /** Text of the blocks that are not complete. */
    this.rest = "";
    this.room = MOST;
    /** What is too long, or nested too deep, to be read. */
    this.beyond = make("div", { class: "plain" });
    this.links = Object.create(null);
    /** @type {{raw: string, type: string, nodes: ChildNode[]}[]} */
    this.open = [];
  }

  /** @param {string} piece */
  add(piece) {
    const text = piece.replaceAll("\r", "");
    this.rest += text.slice(0, this.room);
    if (text.length > this.room) this.beyond.append(text.slice(this.room));
    this.room = Math.max(this.room - text.length, 0);
  }

  /** Draws what has come. */
  draw() {
    let blocks = [];
    try {
      blocks = this.blocks();
    } catch { // a stack that is too small for its nesting
      this.giveUp();
    }
    let same = 0;
    while (same < blocks.length && this.open[same]?.raw === blocks[same].raw) same += 1;
    const [last] = this.open.slice(same);
    if (blocks[same]?.type === "code" && last?.type === "code" && grow(last, blocks[same])) same += 1;
    for (const { nodes } of this.open.splice(same)) for (const node of nodes) node.remove();
    for (const token of blocks.slice(same)) {
      const nodes = nodesOf(token);
      this.node.append(...nodes);
      this.open.push({ raw: token.raw, type: token.type, nodes });
    }
    while (this.open.length > OPEN && this.rest.startsWith(this.open[0].raw)) {
      this.rest = this.rest.slice(this.open.shift()?.raw.length);
    }
    if (this.beyond.hasChildNodes()) this.node.append(this.beyond);
  }

  /** @returns {any[]} the blocks of what is not complete */
  blocks() {
    if (DEEP.test(this.rest)) this.giveUp();
    const lexer = new Lexer({ ...HOW });
    lexer.tokens.links = this.links;
    const blocks = lexer.blockTokens(this.rest, []);
    for (const { src, tokens } of lexer.inlineQueue) {
      if (src.length <= MOST_INLINE) lexer.inlineTokens(src, tokens);
      else tokens.push({ type: "text", raw: src, text: src, escaped: false });
    }
    return blocks;
  }

  /** Shows what is not complete, and all that comes, as it is. */
  giveUp() {
    this.beyond.prepend(this.rest);
    [this.rest, this.room] = ["", 0];
  }
}

/**
 * Lets a block of code grow in its place, where it is scrolled and selected.
 * @param {{raw: string, nodes: any[]}} block
 * @param {any} token
 */
function grow(block, token) {
  const code = block.nodes[0]?.querySelector?.("code");
  if (!code?.firstChild || !token.text.startsWith(code.textContent)) return false;
  code.firstChild.appendData(token.text.slice(code.textContent.length));
  block.raw = token.raw;
  return true;
}
