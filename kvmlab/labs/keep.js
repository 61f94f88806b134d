/**
 * One button that has everything saved and hands the file to the learner.
 *
 * Python makes the text; here it becomes a download of the browser's own, so nothing is sent to
 * anybody.  Of several views of the button, the one that was pressed downloads.
 */

function render({ model, el }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "jupyter-widgets jupyter-button widget-button kvm-keep";
  let pressed = false;
  const say = () => (button.textContent = model.get("label"));
  const take = ({ name, text }) => {
    if (!pressed) return;
    pressed = false;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  button.addEventListener("click", () => {
    pressed = true;
    model.send({ wanted: "file" });
  });
  model.on("change:label", say);
  model.on("msg:custom", take);
  say();
  el.append(button);
  return () => {
    model.off("change:label", say);
    model.off("msg:custom", take);
  };
}

export default { render };
