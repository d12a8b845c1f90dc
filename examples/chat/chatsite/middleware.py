"""The site's Content-Security-Policy."""

# Scripts, styles, forms and sockets from this very site and nothing inline: were somebody to smuggle markup into a
# page, the browser would not run it. ("self" covers ws:// and wss:// on the same host and port, too.)
POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)


def content_security_policy(get_response):
    """Send the policy with every page."""

    def middleware(request):
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return middleware
