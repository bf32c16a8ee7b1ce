// Sign in: by password and passkey, identity provider, or the link of `control-plane dev`.
/** @import {AddPasskey, Api, Begun, Me, Params, Parts, ShowPasskey, SignInContext} from "../app.js" */
import { Problem, enter } from "../api.js";
import { text } from "../dom.js";
import { t, told } from "../i18n.js";

/** It also goes on where somebody signs in in another tab. `refused` needs a session of just now.
 * @param {Parts["login"]} part @param {Params} params @param {SignInContext} context */
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

  /** @param {() => Promise<Me>} open */
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
      if (!(error instanceof Problem && error.code === "passkey_required")) throw error;
      const { challenge, options } = /** @type {Begun} */ (error.body);
      const credential = /** @type {ShowPasskey["credential"]} */ (await passkey("get", options, part.waits));
      return enter("/auth/passkey", { challenge, credential });
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
    signIn(() => enter("/auth/login", { login_token: token }), (error) => (error instanceof Problem && error.status === 401 ? t("login.link_ended") : told(error)));
  }
}

/** Meanwhile `place` says that it is waited for.
 * @param {"get" | "create"} way @param {unknown} options @param {HTMLElement} place */
async function passkey(way, options, place) {
  const { PublicKeyCredential: reader } = window;
  if (!reader?.[way === "get" ? "parseRequestOptionsFromJSON" : "parseCreationOptionsFromJSON"]) throw new Error(t("login.no_passkeys"));
  text(place, t("login.use_passkey"));
  const given = /** @type {PublicKeyCredentialRequestOptionsJSON & PublicKeyCredentialCreationOptionsJSON} */ (options);
  try {
    const found = await (way === "get" ? navigator.credentials.get({ publicKey: reader.parseRequestOptionsFromJSON(given) }) : navigator.credentials.create({ publicKey: reader.parseCreationOptionsFromJSON(given) }));
    return /** @type {PublicKeyCredential} */ (found).toJSON();
  } catch (error) {
    throw new Error(t("login.no_passkey", { why: error instanceof Error ? error.message : error }));
  } finally {
    text(place, "");
  }
}

/** @param {{name: string}} body @param {Api} api @param {HTMLElement} place */
export async function addPasskey({ name }, api, place) {
  const { challenge, options } = await api.post("/auth/passkeys/begin");
  const credential = /** @type {AddPasskey["credential"]} */ (await passkey("create", options, place));
  return api.post("/auth/passkeys", { challenge, credential, name });
}
