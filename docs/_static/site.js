// What scrolls within itself takes the focus, so that it can be scrolled by keyboard.
function focusWhatScrolls() {
  for (const element of document.querySelectorAll("pre, .table-wrapper, table.dataframe")) {
    if (element.scrollWidth > element.clientWidth || element.scrollHeight > element.clientHeight) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  }
}
addEventListener("load", focusWhatScrolls);
addEventListener("resize", focusWhatScrolls);
