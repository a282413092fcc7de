/**
 * Suffixes below which anybody can have a host, so that a pattern over one of them allows the whole world. The whole
 * Public Suffix List (https://publicsuffix.org) takes 48 KiB and 30 ms of every start, so this is a rule and a short
 * list: what a registry hands names out under, and where hosting, tunnels and wildcard DNS are rented or free. It
 * does not know every such service; SECURITY.md says so.
 */

/** What registries put before a country: `co.uk`, `com.br`, `ne.jp`. */
const OF_A_REGISTRY =
  /^(?:ac|asn|co|com|ed|edu|ernet|fin|firm|gen|go|gob|gouv|gov|govt|gv|id|ind|inf|info|int|ltd|me|mil|ne|net|nhs|nic|nom|or|org|plc|police|press|pro|res|sch|school|tm|web)\.[a-z]{2}$/;

/** Names are handed out directly below these: `me.github.io` is somebody's own. */
const HANDED_OUT = new Set(
  `appspot.com azurestaticapps.net azurewebsites.net b-cdn.net backblazeb2.com blogspot.com bubbleapps.io
   cloudfront.net codeberg.page csb.app deno.dev deno.net devtunnels.ms duckdns.org dyndns.org elasticbeanstalk.com
   fastly.net firebaseapp.com fly.dev github.dev github.io gitlab.io glitch.me gradio.live herokuapp.com hf.space
   hopto.org lhr.life loca.lt localtunnel.me modal.run myshopify.com netlify.app ngrok.app ngrok.dev ngrok-free.app
   ngrok-free.dev ngrok.io no-ip.org now.sh ondigitalocean.app onrender.com pages.dev pinggy.link r2.dev railway.app
   render.com repl.co replit.app replit.dev serveo.net stackblitz.io streamlit.app surge.sh translate.goog
   trycloudflare.com ts.net vercel.app vercel.dev web.app webflow.io wixsite.com wordpress.com workers.dev
   zrok.io`.split(/\s+/),
);

/** Names are handed out somewhere below these, at more than one depth; or they are resolved to any address. */
const HANDED_OUT_DEEPLY =
  `amazonaws.com amazonaws.com.cn awsapprunner.com amplifyapp.com on.aws api.aws akamaized.net
   azure.com azure-api.net azurecontainer.io azurecontainerapps.io azureedge.net cloudapp.net cloudfunctions.net
   digitaloceanspaces.com gitpod.io googleusercontent.com nip.io oraclecloud.com oraclegovcloud.com replit.dev run.app
   sslip.io supabase.co traefik.me trafficmanager.net up.railway.app windows.net xip.io`.split(/\s+/);

/** Whether a pattern over `host` (lower case, at least two labels) allows hosts that anybody can have. */
export function isPublicSuffix(host: string): boolean {
  return (
    OF_A_REGISTRY.test(host) ||
    HANDED_OUT.has(host) ||
    HANDED_OUT_DEEPLY.some((suffix) => host === suffix || host.endsWith(`.${suffix}`))
  );
}
