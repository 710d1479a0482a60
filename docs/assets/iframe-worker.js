// Search on pages that were opened from a disk: browsers start no worker there, so a hidden frame does its work.
// mkdocs-material would fetch such a script from another host; its name tells it that one is there.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      const waiting = [];
      const send = (data) => frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
      this.postMessage = (data) => waiting.push(data);
      frame.hidden = true;
      frame.srcdoc = "<!doctype html><title>search</title>";
      frame.onload = () => {
        const inner = frame.contentWindow;
        const load = (source, ready) => {
          const script = inner.document.createElement("script");
          script.src = source;
          script.onload = ready;
          inner.document.body.append(script);
        };
        // What the worker says goes to whoever listens on this object.
        inner.postMessage = (data) => {
          const event = new MessageEvent("message", { data });
          this.dispatchEvent(event);
          if (this.onmessage) this.onmessage(event);
        };
        inner.importScripts = (...sources) => sources.forEach((source) => load(source));
        load(new URL(address, location.href).href, () => {
          this.postMessage = send;
          waiting.splice(0).forEach(send);
        });
      };
      document.body.append(frame);
    }
    terminate() {}
  };
}
