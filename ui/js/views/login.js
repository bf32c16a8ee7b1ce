// Sign in: by name and password, or by the link that `control-plane dev` prints.
import { make, text } from "../dom.js";
import { told } from "../i18n.js";

/** A form to sign in; it also goes on where somebody has signed in from another tab meanwhile. */
export function mount(root, params, { api, signal, t, title, user, signedIn }) {
  title(t("login.title"));
  const part = make("login");
  root.replaceChildren(part.root);
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  // In the embedded mode nobody has a password. Who is not signed in is not told the mode, but no other has such links.
  part.link.hidden = !token && !user?.dev;

  async function signIn(body) {
    part.error.textContent = "";
    try {
      await signedIn(await api.post("/auth/login", body, { asksToSignIn: false }), params.next);
    } catch (error) {
      text(part.error, error.status === 401 && body.login_token ? t("login.link_ended") : told(error));
    }
  }

  window.addEventListener("focus", async () => {
    const me = await api.get("/auth/me", { signal, asksToSignIn: false }).catch(() => null);
    if (me) signedIn(me, params.next);
  }, { signal });
  part.root.addEventListener("submit", (event) => {
    event.preventDefault();
    const { username, password } = Object.fromEntries(new FormData(part.root));
    signIn({ username, password });
  });

  // The token is in the fragment, so it reaches no log; it is taken out of the address at once.
  if (token) {
    history.replaceState(null, "", location.pathname + location.search);
    signIn({ login_token: token });
  }
}
