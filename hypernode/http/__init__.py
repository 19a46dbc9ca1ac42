"""HTTP interfaces of a node: the API as REST, metrics, the dashboard. Imported only when one is switched on.

A *site* is one listening address with an application of its own (sites.py). To serve something over HTTP:

1. Write `routes(node) -> list[starlette.routing.BaseRoute]` in a module of its own. Handlers are `async def` under
   trio; what blocks goes through `trio.to_thread`. A `HyperError` becomes an answer in words by itself (answers.py).
2. Put it on a site. On the API's: add it to `api_routes` in app.py; all paths ask for the bearer token, but for those
   in `_OPEN_PATHS`. On one with an address of its own, which is opened in the node's nursery:

       setup = make_site(address, certificate, key)          # refuses what is not safe
       app = make_app(routes(node), token)                   # token None: whoever reaches it may ask
       url = await nursery.start(serve_site, setup, app)

   and `node.sites[NAME] = url`, so that `status` and the daemon say so.

What comes out of images must be on another site than the API: a page out of an image is a program that the browser
runs with the rights of its origin (scheme, host, port). guard.py adds headers to every answer that keep pages from
running anything but the site's own scripts; a handler's own header of the same name comes first.

server.py sees to heads, bodies (`BODY_BYTES_MAX`), deadlines, connections and clients that go away: a request is
cancelled with its client, and what is streamed (StreamingResponse, FileResponse with ranges) is sent piece by piece,
each with a deadline. So a handler needs no limits of its own but for what it computes.
"""
