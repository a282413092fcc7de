/** What `build.ts` writes. */

/** `openapi.json`. */
export const DOCUMENT: string;
/** The same as HTML. */
export const PAGE: string;
/** Of the page. */
export const CONTENT_SECURITY_POLICY: string;
