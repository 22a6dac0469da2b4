// A row that is replaced between pressing and letting go would lose the click: while one is pressed, tables wait.

let pressed = false;
const release = () => { pressed = false; };
addEventListener("pointerup", () => setTimeout(release, 0));
// A menu, a dragged text or another window may keep the letting go for itself: nothing old may stay under "live".
for (const taken of ["pointercancel", "contextmenu", "dragstart", "blur"]) addEventListener(taken, release);

export const isPressed = () => pressed;

export function waitForRelease(place) {
  place.addEventListener("pointerdown", (event) => { if (event.button === 0) pressed = true; });
}
