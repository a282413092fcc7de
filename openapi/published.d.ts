/** What `build.ts` writes. */

/** Of the page of the document. */
export const CONTENT_SECURITY_POLICY: string;
