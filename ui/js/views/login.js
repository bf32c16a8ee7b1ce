// Sign in: by password and passkey, identity provider, or the link of `control-plane dev`.
import { enter } from "../api.js";
import { text } from "../dom.js";
import { t, told } from "../i18n.js";

/** It also goes on where somebody signs in in another tab. `refused` needs a session of just now. */
export function mount(part, params, { api, signal, user, signedIn, refused }) {
  const { username, password } = part.root.elements;
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  // Only the embedded mode has links; who is not signed in is not told the mode.
  part.link.hidden = !token && !user?.dev;
  if (user) {
    username.value = user.username;
    text(part.again, t(refused ? "login.again" : "login.ended"));
  }
  [username.autofocus, password.autofocus] = [!user, Boolean(user)];
  if (params.error) text(part.error, told({ code: params.error, message: params.error }));

  async function signIn(open, failed = told) {
    part.error.textContent = "";
    try {
      await signedIn(await open(), params.next);
    } catch (error) {
      text(part.error, failed(error));
    }
  }

  async function byPassword() {
    const body = { username: username.value, password: password.value };
    try {
      return await enter("/auth/login", body);
    } catch (error) {
      if (error.code !== "passkey_required") throw error;
      const { challenge, options } = error.body;
      return enter("/auth/passkey", { challenge, credential: await passkey("get", options, part.waits) });
    }
  }

  async function offerProvider() {
    const { oidc } = await api.look("/auth/providers");
    part.provider.hidden = !oidc;
    text(part.provider, oidc && t("login.provider", oidc));
    if (user) part.provider.target = "_blank"; // the page below keeps what was typed; it goes on when it is looked at
  }

  window.addEventListener("focus", async () => {
    const me = await api.look("/auth/me").catch(() => null);
    if (me && me.csrf_token !== user?.csrf_token) signedIn(me, params.next); // it is another session
  }, { signal });
  part.root.onsubmit = (event) => {
    event.preventDefault();
    signIn(byPassword);
  };
  offerProvider().catch(() => {});

  // In the fragment it reaches no log.
  if (token) {
    history.replaceState(null, "", location.pathname + location.search);
    signIn(() => enter("/auth/login", { login_token: token }), (error) => (error.status === 401 ? t("login.link_ended") : told(error)));
  }
}

/** Meanwhile `place` says that it is waited for. */
async function passkey(way, options, place) {
  const { PublicKeyCredential: reader } = window;
  const read = `parse${way === "get" ? "Request" : "Creation"}OptionsFromJSON`;
  if (!reader?.[read]) throw new Error(t("login.no_passkeys"));
  text(place, t("login.use_passkey"));
  try {
    return (await navigator.credentials[way]({ publicKey: reader[read](options) })).toJSON();
  } catch (error) {
    throw new Error(t("login.no_passkey", { why: error.message }));
  } finally {
    text(place, "");
  }
}

export async function addPasskey({ name }, api, place) {
  const { challenge, options } = await api.post("/auth/passkeys/begin");
  return api.post("/auth/passkeys", { challenge, credential: await passkey("create", options, place), name });
}
