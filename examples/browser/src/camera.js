// The camera: the first press shows it, the second takes a picture and switches it off.
import { pixels } from "./images.js";

/**
 * @param {{start: HTMLButtonElement, shoot: HTMLButtonElement, video: HTMLVideoElement}} elements
 * @param {(picture: object) => void} take gets {width, height, data}
 * @param {(error: Error) => void} fail
 */
export function useCamera({ start, shoot, video }, take, fail) {
  const show = (on) => {
    start.hidden = on;
    shoot.hidden = video.hidden = !on;
  };
  start.onclick = async () => {
    try {
      if (!navigator.mediaDevices) throw new Error("browsers give it to pages of localhost and of https only");
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      show(true);
      await video.play();
      shoot.focus();
    } catch (error) {
      fail(new Error(`The camera does not open: ${error.message}`));
    }
  };
  shoot.onclick = () => {
    const picture = pixels(video);
    for (const track of video.srcObject.getTracks()) track.stop();
    show(false);
    start.focus();
    take(picture);
  };
}
