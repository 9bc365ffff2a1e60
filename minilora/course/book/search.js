// Finds the sections that hold every word of the question; those with it in a heading come first.
const entries = JSON.parse(document.getElementById("index").textContent);
const question = (new URLSearchParams(location.search).get("q") || "").trim();
const words = question.toLowerCase().split(/\s+/).filter(Boolean);
document.getElementById("search-words").value = question;

function rank(entry) {
  const title = entry.title.toLowerCase(), text = entry.text.toLowerCase();
  let sum = 0;
  for (const word of words) {
    const times = text.split(word).length - 1;
    if (title.includes(word)) sum += 20;
    else if (!times) return 0;
    sum += Math.min(times, 5);
  }
  return sum;
}

function excerpt(text) {
  const at = Math.max(0, text.toLowerCase().indexOf(words[0]) - 60);
  return (at ? "… " : "") + text.slice(at, at + 200) + (at + 200 < text.length ? " …" : "");
}

if (words.length) {
  const found = entries.map((entry) => [rank(entry), entry]).filter(([sum]) => sum > 0);
  found.sort((a, b) => b[0] - a[0]);
  const list = document.getElementById("results");
  for (const [, entry] of found.slice(0, 40)) {
    const item = document.createElement("li"), link = document.createElement("a");
    const where = document.createElement("p"), text = document.createElement("p");
    link.href = entry.to;
    link.textContent = entry.title;
    where.textContent = entry.page;
    where.className = "where";
    text.textContent = excerpt(entry.text);
    item.append(link, where, text);
    list.append(item);
  }
  const more = found.length > 40 ? "; the first 40 are shown" : "";
  document.getElementById("found").textContent =
    `${found.length} ${found.length === 1 ? "section holds" : "sections hold"} “${question}”${more}.`;
}
