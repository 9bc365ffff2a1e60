// Shows the picture of the sliders' places; all were drawn when the chapter was built.
for (const figure of document.querySelectorAll("figure.slider")) {
  const inputs = [...figure.querySelectorAll("input")], image = figure.querySelector("img");
  const words = inputs.map((input) => JSON.parse(input.dataset.labels));
  const about = image.alt, kept = [];
  const address = (index) => figure.dataset.frames + index + figure.dataset.suffix;

  function show() {
    let index = 0, places = [];
    inputs.forEach((input, i) => {
      const place = words[i][input.value], name = figure.querySelectorAll("label")[i].textContent;
      index = index * words[i].length + Number(input.value);
      figure.querySelectorAll("output")[i].textContent = place;
      input.setAttribute("aria-valuetext", place);
      places.push(`${name} = ${place}`);
    });
    image.src = address(index);
    image.alt = `${about}: ${places.join(", ")}`;
  }

  function fetchAll() {  // once a reader reaches for a slider, so that it then follows the finger
    while (kept.length < Number(figure.dataset.count)) {
      const picture = new Image();
      picture.src = address(kept.length);
      kept.push(picture);
    }
  }

  for (const input of inputs) {
    input.addEventListener("input", show);
    for (const event of ["focus", "pointerenter", "pointerdown"]) {
      input.addEventListener(event, fetchAll);
    }
  }
  show();
  figure.hidden = false;
}
