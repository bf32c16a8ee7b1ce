// Sign in: by name and password, or by the link that `control-plane dev` prints.
import { make } from "../dom.js";

export function mount(root, params, { api, t, title, signedIn }) {
  title(t("login.title"));
  const part = make("login");
  root.replaceChildren(part.root);

  async function signIn(body) {
    part.error.textContent = "";
    try {
      await signedIn(await api.post("/auth/login", body, { asksToSignIn: false }), params.next);
    } catch (error) {
      part.error.textContent = error.status === 401 ? t("login.refused") : error.detail;
    }
  }

  part.root.addEventListener("submit", (event) => {
    event.preventDefault();
    const { username, password } = Object.fromEntries(new FormData(part.root));
    signIn({ username, password });
  });

  // The token is in the fragment, so it reaches no log; it is taken out of the address at once.
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", location.pathname + location.search);
    signIn({ login_token: token });
  }
}
