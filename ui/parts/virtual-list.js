// A list of very many rows. Only the visible rows exist as elements.
//
// Rows may have any height: each is measured when it is drawn, and estimated until then. Heights are
// summed in blocks, so that finding a row by its position takes time in the number of blocks, not rows.

import { render } from "../lib/dom.js";

/** The estimated height of a row, in pixels. */
const ESTIMATE = 29;
const BLOCK = 64;
/** Rows drawn beyond each edge. */
const MARGIN = 12;

/** @template T */
export class VirtualList extends HTMLElement {
  $own = true;
  // Attributes that this element sets itself.
  $keepAttributes = ["role", "tabindex"];
  /** @type {T[]} */
  #items = [];
  /** @type {(item: T, index: number) => HTMLElement} */
  row = () => document.createElement("div");
  /** Called when the user scrolls away from the end of a list that follows it. @type {(() => void)|null} */
  onunfollow = null;
  /** @type {Array<number|undefined>} */
  #heights = [];
  /** @type {number[]} */
  #sums = [];
  #follow = false;
  #width = 0;
  #due = 0;
  #space = document.createElement("div");
  #window = document.createElement("div");
  #resize = new ResizeObserver(() => this.#resized());

  connectedCallback() {
    this.setAttribute("tabindex", "0");
    this.#space.className = "space";
    this.#window.className = "window";
    this.#window.setAttribute("role", "list");
    this.#space.append(this.#window);
    this.append(this.#space);
    this.addEventListener("scroll", this.#scrolled, { passive: true });
    this.#resize.observe(this);
    this.#schedule();
  }

  disconnectedCallback() {
    this.removeEventListener("scroll", this.#scrolled);
    this.#resize.disconnect();
    cancelAnimationFrame(this.#due);
    this.#due = 0;
  }

  /** The rows. Heights are kept for rows whose item is still at the same index. @param {T[]} items */
  set items(items) {
    const before = this.#items;
    let same = Math.min(before.length, items.length);
    // Most changes append rows: comparing the first and last item is enough to detect that.
    if (same > 0 && (before[0] !== items[0] || before[same - 1] !== items[same - 1])) {
      same = 0;
      while (same < Math.min(before.length, items.length) && before[same] === items[same]) same += 1;
    }
    this.#items = items;
    this.#heights.length = same;
    this.#heights.length = items.length;
    this.#sum(Math.floor(same / BLOCK));
    this.#schedule();
  }

  get items() {
    return this.#items;
  }

  /** Whether the list stays scrolled to its end while rows are added. @param {boolean} follow */
  set follow(follow) {
    this.#follow = follow;
    if (follow) this.#schedule();
  }

  get follow() {
    return this.#follow;
  }

  /** Draws the visible rows again. */
  refresh() {
    this.#schedule();
  }

  /** @param {number} from the first block whose rows changed */
  #sum(from) {
    const blocks = Math.ceil(this.#items.length / BLOCK);
    this.#sums.length = blocks;
    for (let block = from; block < blocks; block += 1) {
      let sum = 0;
      const end = Math.min(this.#items.length, (block + 1) * BLOCK);
      for (let index = block * BLOCK; index < end; index += 1) sum += this.#heights[index] ?? ESTIMATE;
      this.#sums[block] = sum;
    }
  }

  /** The row at a distance from the top, and the distance of that row. @param {number} top */
  #at(top) {
    let block = 0;
    let y = 0;
    while (block < this.#sums.length - 1 && y + this.#sums[block] <= top) y += this.#sums[block++];
    let index = block * BLOCK;
    while (index < this.#items.length - 1 && y + (this.#heights[index] ?? ESTIMATE) <= top) {
      y += this.#heights[index] ?? ESTIMATE;
      index += 1;
    }
    return { index, y };
  }

  /** @param {number} index */
  #top(index) {
    let y = 0;
    const block = Math.floor(index / BLOCK);
    for (let each = 0; each < block; each += 1) y += this.#sums[each];
    for (let each = block * BLOCK; each < index; each += 1) y += this.#heights[each] ?? ESTIMATE;
    return y;
  }

  #scrolled = () => {
    // When the user scrolls up, the list stops following its end.
    const atEnd = this.scrollHeight - this.scrollTop - this.clientHeight < 8;
    if (this.#follow && !atEnd && !this.#due) {
      this.#follow = false;
      this.onunfollow?.();
    }
    this.#schedule();
  };

  #resized() {
    if (this.clientWidth !== this.#width) {
      this.#width = this.clientWidth;
      this.#heights = new Array(this.#items.length);
      this.#sum(0);
    }
    this.#schedule();
  }

  #schedule() {
    if (this.#due || !this.isConnected) return;
    this.#due = requestAnimationFrame(() => {
      this.#draw();
      this.#due = 0;
    });
  }

  /** Sets the height of all rows; the style sheet limits the height of the list. @param {number} total */
  #size(total) {
    this.#space.style.blockSize = `${total}px`;
    this.style.setProperty("--rows", `${Math.ceil(total)}px`);
  }

  #draw() {
    const total = this.#sums.reduce((sum, block) => sum + block, 0);
    this.#size(total);
    if (this.#follow) this.scrollTop = total;
    const { index: seen, y } = this.#at(this.scrollTop);
    const into = this.scrollTop - y;
    const first = Math.max(0, seen - MARGIN);
    const last = Math.min(
      this.#items.length,
      this.#at(this.scrollTop + this.clientHeight).index + 1 + MARGIN,
    );
    const rows = [];
    for (let index = first; index < last; index += 1) {
      const row = this.row(this.#items[index], index);
      /** @type {any} */ (row).$key = String(index);
      row.setAttribute("role", "listitem");
      row.setAttribute("aria-setsize", String(this.#items.length));
      row.setAttribute("aria-posinset", String(index + 1));
      rows.push(row);
    }
    render(this.#window, rows);
    let changed = false;
    let index = first;
    for (const row of this.#window.children) {
      const height = row.getBoundingClientRect().height;
      if (height > 0 && this.#heights[index] !== height) {
        this.#heights[index] = height;
        changed = true;
      }
      index += 1;
    }
    if (changed) {
      this.#sum(Math.floor(first / BLOCK));
      this.#size(this.#sums.reduce((sum, block) => sum + block, 0));
    }
    this.#window.style.transform = `translateY(${this.#top(first)}px)`;
    if (this.#follow) this.scrollTop = this.scrollHeight;
    // Rows above that are taller than estimated must not move the visible ones.
    else if (changed) this.scrollTop = this.#top(seen) + into;
  }
}

customElements.define("virtual-list", VirtualList);
