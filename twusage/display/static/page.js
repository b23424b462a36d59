// Fetches the page every 15 s while the tab is visible, and replaces what has changed. All is readable without it.
"use strict";
const EVERY = 15000, TIMEOUT = 10000;
let etag = null, failed = 0, since = new Date(), timer = null;

function replace(id, fresh) {
  const old = document.getElementById(id);
  if (!fresh || old.innerHTML === fresh.innerHTML) return;
  const open = [...old.querySelectorAll("details[open]")].map((each) => each.id);
  const at = old.contains(document.activeElement) ? document.activeElement : null;
  const key = at && (at.id ? `#${at.id}` : `a[href="${at.getAttribute("href")}"]`);
  const summary = at && at.closest("summary") && at.closest("details").id;
  old.innerHTML = fresh.innerHTML;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  (summary ? document.querySelector(`#${summary} summary`) : key && old.querySelector(key))?.focus();
}

async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const headers = etag ? { "If-None-Match": etag } : {};
    const response = await fetch(location.href, { headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
    if (!response.ok && response.status !== 304) throw new Error(String(response.status));
    if (response.status === 200) {
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      etag = response.headers.get("ETag");
      document.title = page.title;
      for (const id of ["fresh", "main"]) replace(id, page.getElementById(id));
    }
    failed = 0; since = new Date();
    document.getElementById("lost").hidden = true;
  } catch {
    failed += 1;
    const lost = document.getElementById("lost");
    if (failed > 1 && lost.hidden) {
      lost.querySelector("span").textContent = `${since.toISOString().slice(11, 16)} UTC`;
      lost.hidden = false;
    }
  }
  clearTimeout(timer);
  timer = setTimeout(poll, EVERY);
}
document.addEventListener("visibilitychange", poll);
timer = setTimeout(poll, EVERY);
