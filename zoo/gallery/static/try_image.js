// An image as a network takes it: what zoo.data.images and timm's evaluation transform do in Python, to the pixel.
(function () {
  "use strict";
  const BITS = 22; // of Pillow's fixed-point weights
  const LARGEST = 1 << 26; // pixels

  // Pixels of an image file, <img> or <canvas>: {width, height, data}, RGBA; what is transparent becomes white.
  async function pixels(source) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(source, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    } catch (_) {
      throw new Error("This file cannot be read as an image.");
    }
    if (bitmap.width * bitmap.height > LARGEST) throw new Error("This image has more than 67 million pixels.");
    const canvas = document.createElement("canvas");
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  // The planes of an image, one in grey or three; grey as Pillow makes it from RGB.
  function planes(image, channels) {
    const count = image.width * image.height, data = image.data;
    return Array.from({ length: channels }, function (_, channel) {
      const plane = new Uint8Array(count);
      for (let i = 0, k = 0; i < count; i++, k += 4) {
        plane[i] = channels === 3 ? data[k + channel]
          : (data[k] * 19595 + data[k + 1] * 38470 + data[k + 2] * 7471 + 0x8000) >>> 16;
      }
      return plane;
    });
  }

  // Which pixels of a row of `from` make each of `to`, and how much of each: a triangle as wide as a new pixel or an old.
  function mixtures(from, to) {
    const scale = from / to, reach = Math.max(scale, 1);
    return Array.from({ length: to }, function (_, x) {
      const centre = (x + 0.5) * scale;
      const start = Math.max(0, Math.trunc(centre - reach + 0.5));
      const end = Math.min(from, Math.trunc(centre + reach + 0.5));
      const parts = [];
      for (let i = start; i < end; i++) parts.push(Math.max(0, 1 - Math.abs((i - centre + 0.5) / reach)));
      const total = parts.reduce(function (a, b) { return a + b; }, 0);
      return { start: start, parts: parts.map(function (part) { return Math.trunc(0.5 + part / total * 2 ** BITS); }) };
    });
  }

  // Rows of a plane, each resized to `to` pixels; `step` and `stride` say whether rows or columns are gone through.
  function along(plane, from, to, lines, step, stride, newStep, newStride) {
    const found = new Uint8Array(to * lines), mixed = mixtures(from, to);
    for (let line = 0; line < lines; line++) {
      for (let x = 0; x < to; x++) {
        const start = mixed[x].start, parts = mixed[x].parts;
        let sum = 2 ** (BITS - 1);
        for (let i = 0; i < parts.length; i++) sum += plane[line * stride + (start + i) * step] * parts[i];
        found[line * newStride + x * newStep] = Math.min(255, Math.floor(sum / 2 ** BITS));
      }
    }
    return found;
  }

  // Pillow's bilinear resizing: across, then down, with 8 bits in between.
  function resize(plane, width, height, newWidth, newHeight) {
    let found = plane;
    if (newWidth !== width) found = along(found, width, newWidth, height, 1, width, 1, newWidth);
    if (newHeight !== height) found = along(found, height, newHeight, newWidth, newWidth, 1, newWidth, 1);
    return found;
  }

  // Python's round: halves go to the even number.
  function round(value) {
    const low = Math.floor(value);
    return value - low === 0.5 ? low + (low % 2) : Math.round(value);
  }

  // What a network takes, {input: Float32Array of (channels, height, width), seen: its 8-bit planes before normalising}.
  function prepare(image, network, inverted) {
    const [channels, height, width] = network.size;
    const short = Math.floor(width / network.crop);
    const wide = image.width > image.height;
    const long = Math.trunc(short * Math.max(image.width, image.height) / Math.min(image.width, image.height));
    const [w, h] = wide ? [long, short] : [short, long];
    const left = round((w - width) / 2), top = round((h - height) / 2);
    const input = new Float32Array(channels * height * width), f = Math.fround;
    const seen = planes(image, channels).map(function (plane, c) {
      const resized = resize(plane, image.width, image.height, w, h), part = new Uint8Array(height * width);
      for (let i = 0; i < part.length; i++) {
        const value = resized[(top + Math.floor(i / width)) * w + left + i % width];
        part[i] = inverted ? 255 - value : value;
        input[c * part.length + i] = f(f(f(part[i] / 255) - f(network.mean[c])) / f(network.std[c]));
      }
      return part;
    });
    return { input: input, seen: seen };
  }

  window.zooImage = { pixels: pixels, prepare: prepare };
})();
