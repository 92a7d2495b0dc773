// Where the hive is: a proxy may show it below a path of its own.

/** That path, such as `/hive`, or nothing. */
export const prefix = new URL(".", location.href).pathname.replace(/\/$/, "");

/** The address of a path of the API, which counts from where the page is. @param {string} path */
export const at = (path) => prefix + path;
